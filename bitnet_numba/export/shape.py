"""The shape of a checkpoint's model, from its config.json, and the GGUF keys that tell it."""

from dataclasses import dataclass

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.export.json_file import JsonObject

ARCHITECTURES = {"BitNetForCausalLM": "bitnet-b1.58"}
PLAIN_ROPE = ("default", None)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides the tensors of a model and how they are run.

    Attributes
    ----------
    architecture : str
        As GGUF names it.
    multiply_by_scale : bool
        Whether the ``weight_scale`` of a packed matrix is a factor; the other classes of layers divide by it.
    """

    architecture: str
    vocab_size: int
    max_seq_len: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    rms_norm_eps: float
    rope_theta: float
    tied_embeddings: bool
    multiply_by_scale: bool

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.n_heads


def read_shape(config: JsonObject) -> ModelShape:
    """Read a model's shape, and refuse what would run differently from what the checkpoint means.

    Raises
    ------
    FormatError
        If a value is missing, malformed, or contradicts another.
    UnsupportedError
        If the model belongs to a family, or uses a feature, that is not exported.
    """
    architecture = _architecture(config)
    _refuse_other_graphs(config)
    n_heads = config.positive("num_attention_heads")
    shape = ModelShape(
        architecture=architecture,
        vocab_size=config.positive("vocab_size"),
        max_seq_len=config.positive("max_position_embeddings"),
        hidden_size=config.positive("hidden_size"),
        intermediate_size=config.positive("intermediate_size"),
        n_layers=config.positive("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=config.positive("num_key_value_heads", n_heads),
        rms_norm_eps=config.positive_number("rms_norm_eps"),
        rope_theta=_rope_theta(config),
        tied_embeddings=config.flag("tie_word_embeddings"),
        multiply_by_scale=config.inner("quantization_config").text("linear_class", "bitlinear") == "autobitlinear",
    )
    _check_heads(config, shape)
    return shape


def shape_metadata(shape: ModelShape) -> dict[str, int | float]:
    """Return the GGUF keys that tell a shape, in the order of the official BitNet file."""
    keys = {
        "vocab_size": shape.vocab_size,
        "context_length": shape.max_seq_len,
        "embedding_length": shape.hidden_size,
        "block_count": shape.n_layers,
        "feed_forward_length": shape.intermediate_size,
        "rope.dimension_count": shape.head_dim,
        "attention.head_count": shape.n_heads,
        "attention.head_count_kv": shape.n_kv_heads,
        "attention.layer_norm_rms_epsilon": shape.rms_norm_eps,
        "rope.freq_base": shape.rope_theta,
    }
    return {f"{shape.architecture}.{name}": value for name, value in keys.items()}


def _architecture(config: JsonObject) -> str:
    names = config.items("architectures")
    for known, architecture in ARCHITECTURES.items():
        if names == [known]:
            return architecture
    raise UnsupportedError(
        f"{config.place}: architectures {ascii(names)[:60]} is not exported, only {', '.join(ARCHITECTURES)}; "
        "take a GGUF file of this model"
    )


def _refuse_other_graphs(config: JsonObject) -> None:
    """Refuse features that this family's graph does not have."""
    activation = config.text("hidden_act")
    if activation != "relu2":
        raise UnsupportedError(
            f"{config.place}: hidden_act {activation!r} is not relu2; take a GGUF file of this model"
        )
    if config.flag("attention_bias", default=False):
        raise UnsupportedError(f"{config.place}: attention_bias is not exported; take a GGUF file of this model")
    quantization = config.inner("quantization_config")
    method = quantization.text("quant_method", "bitnet")
    if method != "bitnet":
        raise UnsupportedError(f"{quantization.place}: quant_method {method!r} is not bitnet; take a BitNet checkpoint")
    if quantization.flag("use_rms_norm", default=False):
        raise UnsupportedError(f"{quantization.place}: use_rms_norm is not exported; take a checkpoint without it")


def _rope_theta(config: JsonObject) -> float:
    """Return the base of the rotary frequencies; newer files keep it in ``rope_parameters``."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.inner(key)
        kind = scaling.values.get("rope_type", scaling.values.get("type"))
        if kind not in PLAIN_ROPE:
            raise UnsupportedError(
                f"{scaling.place}: {ascii(kind)[:40]} is not exported; take a GGUF file of this model"
            )
    parameters = config.inner("rope_parameters")
    return (parameters if "rope_theta" in parameters.values else config).positive_number("rope_theta")


def _check_heads(config: JsonObject, shape: ModelShape) -> None:
    if shape.hidden_size % shape.n_heads or shape.head_dim % 2:
        raise FormatError(
            f"{config.place}: hidden_size {shape.hidden_size:,} does not make {shape.n_heads} heads of an even width; "
            "get the checkpoint's own file again"
        )
    if shape.n_heads % shape.n_kv_heads:
        raise FormatError(
            f"{config.place}: num_attention_heads {shape.n_heads} is not a multiple of num_key_value_heads "
            f"{shape.n_kv_heads}; get the checkpoint's own file again"
        )
    if config.positive("head_dim", shape.head_dim) != shape.head_dim:
        raise UnsupportedError(
            f"{config.place}: head_dim {config.values['head_dim']} is not hidden_size / num_attention_heads; "
            "take a GGUF file of this model"
        )
