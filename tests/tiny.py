"""Toy models of any family and shape from a seed, as plain arrays, GGUF files and Hugging Face directories."""

from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.formats.gguf_writer import TensorSource
from bitnet_numba.formats.packing.huggingface import pack_hf
from bitnet_numba.formats.packing.i2s import pack_i2s
from bitnet_numba.formats.packing.tq import pack_tq1_0, pack_tq2_0
from bitnet_numba.model.config import ModelConfig, RopeScaling
from bitnet_numba.model.families import FAMILIES, family_of
from bitnet_numba.model.roles import Role
from bitnet_numba.model.source import Matrix, TernaryMatrix
from tests.backends.cpu.kernels import twins
from tests.oracle import oracle_logits
from tests.tiny_files import (
    MIN_VOCABULARY,
    PAD,
    Bytes,
    Floats,
    GGUFModel,
    HuggingFaceModel,
    bf16_bits,
    gguf_metadata,
    hf_files,
    permuted,
    stored_bytes,
    widened,
)

Place = tuple[str, int]

ARCHITECTURES = tuple(family.architectures[0] for family in dict.fromkeys(FAMILIES.values()))
"""One GGUF architecture of each family, to run a test for every family."""

_DTYPES = {TensorType.F32: "F32", TensorType.F16: "F16", TensorType.BF16: "BF16"}


@dataclass(frozen=True)
class StoredMatrix:
    """An embedding or head.

    Attributes
    ----------
    type : TensorType
    data : uint8[n_bytes]
        As stored.
    values : float32[vocab_size, hidden_size]
        What the stored bytes mean.
    """

    type: TensorType
    data: Bytes
    values: Floats


@dataclass(frozen=True)
class ToyModel:
    """A model as arrays, its q and k rows in Hugging Face's order.

    Attributes
    ----------
    config : ModelConfig
        ``adjacent_pairs`` is False.
    linears : dict of (role, layer) to (int8[rows, columns], scale)
    masters : dict of (role, layer) to float32[rows, columns]
        The trained weights that the ternary ones come from, exactly representable in bf16; empty where these were made
        directly.
    norms : dict of (role, layer or None) to float32[length]
    embedding : StoredMatrix
    head : StoredMatrix or None
        None if it is tied to the embedding.
    """

    config: ModelConfig
    linears: dict[Place, tuple[npt.NDArray[np.int8], np.float32]]
    masters: dict[Place, Floats]
    norms: dict[tuple[str, int | None], Floats]
    embedding: StoredMatrix
    head: StoredMatrix | None

    # ---- what the NumPy backend reads of a model source --------------------------------------------------------------
    @property
    def tied(self) -> bool:
        return self.head is None

    def linear(self, role: str, layer: int) -> TernaryMatrix:
        weights, scale = self.linears[role, layer]
        return TernaryMatrix(scale, weights=weights)

    def norm(self, role: str, layer: int | None) -> Floats:
        return self.norms[role, layer]

    def matrix(self, role: str) -> Matrix:
        stored = self.embedding if role == "token_embd" else self.head
        assert stored is not None
        return Matrix(stored.values, np.zeros((len(stored.values), 0), np.float32))

    def rope_factors(self) -> None:
        return None

    def logits(self, tokens: npt.NDArray[np.int32], kv_type: str = "f16") -> Floats:
        """Return the logits of every position as the NumPy backend computes them, float32[n_tokens, vocab_size]."""
        return oracle_logits(self, tokens, kv_type)

    def tokens(self, n: int, seed: int = 0) -> npt.NDArray[np.int32]:
        """Return a random text, int32[n]."""
        return np.random.default_rng(seed).integers(0, self.config.vocab_size, n).astype(np.int32)

    def gguf(self, linear_type: TensorType = TensorType.I2_S) -> GGUFModel:
        """Return the model as the contents of a GGUF file, its linear layers of the type given."""
        name_of = self.config.family.gguf.name
        tensors = [_stored(name_of(Role("token_embd")), self.embedding)]
        if self.head is not None:
            tensors.append(_stored(name_of(Role("output")), self.head))
        for (role, layer), norm in self.norms.items():
            tensors.append(TensorSource(name_of(Role(role, layer)), TensorType.F32, norm.shape, lambda n=norm: n))
        tensors += [self._gguf_linear(place, linear_type) for place in self.linears]
        scaling = self.config.rope_scaling
        if scaling is not None and scaling.bands is not None:
            plain = twins.inverse_frequencies(self.config.head_dim, self.config.rope_theta)
            factors = (plain / twins.stretch_llama3(plain, scaling.factor, *scaling.bands)).astype(np.float32)
            tensors.append(TensorSource(name_of(Role("rope_freqs")), TensorType.F32, factors.shape, lambda: factors))
        return GGUFModel(gguf_metadata(self.config), {tensor.name: tensor for tensor in tensors})

    def checkpoint(self, linear_class: str | None = "autobitlinear") -> HuggingFaceModel:
        """Return the model as the contents of a Hugging Face directory.

        Parameters
        ----------
        linear_class : {"autobitlinear", "bitlinear"} or None
            What the packed scale means; None for master weights instead.
        """
        name_of = self.config.family.hugging_face.name
        tensors = {name_of(Role("token_embd")): _as_saved(self.embedding)}
        if self.head is not None:
            tensors[name_of(Role("output"))] = _as_saved(self.head)
        for (role, layer), norm in self.norms.items():
            tensors[name_of(Role(role, layer))] = "F32", norm
        for (role, layer), (weights, scale) in self.linears.items():
            name = name_of(Role(role, layer))
            if linear_class is None:
                tensors[name] = "BF16", bf16_bits(self.masters[role, layer])
                continue
            tensors[name] = "U8", pack_hf(weights)
            kept = scale if linear_class == "autobitlinear" else np.float32(1) / scale
            tensors[name_of(Role(role, layer, "scale"))] = "BF16" if _is_bf16(kept) else "F32", _scalar(kept)
        return HuggingFaceModel(hf_files(self.config, self.head is None, linear_class), tensors)

    def _gguf_linear(self, place: Place, kind: TensorType) -> TensorSource:
        weights, scale = self.linears[place]
        floats = self.masters.get(place, weights * scale)
        if self.config.family.adjacent_pairs and place[0] in ("attn_q", "attn_k"):
            n_heads = self.config.n_heads if place[0] == "attn_q" else self.config.n_kv_heads
            weights, floats = permuted(weights, n_heads), permuted(floats, n_heads)
        packers = {
            TensorType.I2_S: lambda: pack_i2s(weights, float(scale)),
            TensorType.TQ1_0: lambda: pack_tq1_0(weights, float(scale)),
            TensorType.TQ2_0: lambda: pack_tq2_0(weights, float(scale)),
        }
        read = packers.get(kind, lambda: stored_bytes(floats, kind))
        return TensorSource(self.config.family.gguf.name(Role(*place)), kind, weights.shape, read)


# ---- making one ------------------------------------------------------------------------------------------------------
def toy_model(
    architecture: str = "bitnet-b1.58",
    *,
    seed: int = 0,
    n_layers: int = 2,
    hidden_size: int = 128,
    intermediate_size: int = 256,
    n_heads: int = 2,
    n_kv_heads: int = 1,
    head_dim: int | None = None,
    vocab_size: int = 301,
    max_seq_len: int = 64,
    rope_theta: float = 10000.0,
    rope_scaling: RopeScaling | None = None,
    embedding_type: TensorType = TensorType.F16,
    head_type: TensorType | None = None,
    has_masters: bool = False,
) -> ToyModel:
    """Return a random model; sizes as in :class:`~bitnet_numba.model.config.ModelConfig`.

    Parameters
    ----------
    head_type : TensorType, optional
        Of a head of its own.
    has_masters : bool
        Whether the ternary weights come from random float ones.
    """
    rng, family = np.random.default_rng(seed), family_of(architecture)
    config = ModelConfig(
        architecture=architecture,
        name="toy",
        n_layers=n_layers,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=hidden_size // n_heads if head_dim is None else head_dim,
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        rms_norm_eps=float(np.float32(1e-5)),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        activation=family.activation,
        sub_norms=family.sub_norms,
        adjacent_pairs=False,
    )
    shapes = _linear_shapes(config)
    masters = {place: _master(rng, shape) for place, shape in shapes.items()} if has_masters else {}
    linears = {place: absmean(masters[place]) if has_masters else _ternary(rng, *shapes[place]) for place in shapes}
    shape = vocab_size, hidden_size
    head = None if head_type is None else _random_matrix(rng, shape, head_type)
    return ToyModel(
        config, linears, masters, _random_norms(rng, config), _random_matrix(rng, shape, embedding_type), head
    )


def toy_checkpoint(seed: int = 0, linear_class: str | None = None) -> HuggingFaceModel:
    """Return a checkpoint as trainers publish it: every float in bf16, the smallest vocabulary, a chat template.

    Parameters
    ----------
    linear_class : {"autobitlinear", "bitlinear"} or None
        As for :meth:`ToyModel.checkpoint`; the packed weights are those of the master weights.
    """
    model = toy_model(seed=seed, vocab_size=MIN_VOCABULARY, embedding_type=TensorType.BF16, has_masters=True)
    contents = model.checkpoint(linear_class)
    for name, (_, norm) in contents.tensors.items():
        if "norm" in name:
            contents.tensors[name] = "BF16", bf16_bits(norm)
    del contents.config["head_dim"]
    contents.files["generation_config.json"]["pad_token_id"] = PAD
    contents.files["tokenizer_config.json"]["chat_template"] = "{{ messages[0].content }}"
    return contents


def _linear_shapes(config: ModelConfig) -> dict[Place, tuple[int, int]]:
    hidden, ffn = config.hidden_size, config.intermediate_size
    heads, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes = {
        "attn_q": (heads, hidden),
        "attn_k": (kv, hidden),
        "attn_v": (kv, hidden),
        "attn_output": (hidden, heads),
        "ffn_gate": (ffn, hidden),
        "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }
    return {(role, layer): shape for layer in range(config.n_layers) for role, shape in shapes.items()}


def _ternary(rng: np.random.Generator, rows: int, columns: int) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Return weights and a scale that float16 and bfloat16 can hold, under which magnitudes stay about 1."""
    weights = rng.choice(np.array([-1, 0, 1], np.int8), (rows, columns), p=[0.3, 0.4, 0.3])
    wanted = np.array([rng.uniform(0.7, 1.3) / np.sqrt(0.6 * columns)], np.float32)
    return weights, widened(bf16_bits(wanted))[0]


def _master(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return widened(bf16_bits((rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)))


def absmean(weights: Floats) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Return ternary weights and their scale, straight from the definition."""
    scale = np.float32(max(np.abs(weights.astype(np.float64)).mean(), 1e-5))
    return np.clip(np.round(weights / scale), -1, 1).astype(np.int8), scale


def _random_norms(rng: np.random.Generator, config: ModelConfig) -> dict[tuple[str, int | None], Floats]:
    lengths = {"attn_norm": config.hidden_size, "ffn_norm": config.hidden_size}
    if config.sub_norms:
        lengths |= {"attn_sub_norm": config.n_heads * config.head_dim, "ffn_sub_norm": config.intermediate_size}
    norms: dict[tuple[str, int | None], Floats] = {
        (role, layer): rng.uniform(0.5, 1.5, n).astype(np.float32)
        for layer in range(config.n_layers)
        for role, n in lengths.items()
    }
    return norms | {("output_norm", None): rng.uniform(0.5, 1.5, config.hidden_size).astype(np.float32)}


def _random_matrix(rng: np.random.Generator, shape: tuple[int, int], kind: TensorType) -> StoredMatrix:
    if kind is TensorType.Q6_K:
        data = _random_q6_k(rng, shape)
    else:
        steps = np.clip(np.rint(rng.standard_normal(shape) * 32), -127, 127)
        data = stored_bytes((steps / 64).astype(np.float32), kind)  # multiples of 1/64: exact in every float type
    row_bytes = data.reshape(shape[0], -1)
    values = gguf.quants.dequantize(row_bytes, gguf.GGMLQuantizationType(kind)).astype(np.float32)
    return StoredMatrix(kind, data, values.reshape(shape))


def _random_q6_k(rng: np.random.Generator, shape: tuple[int, int]) -> Bytes:
    """Return random blocks: 192 bytes of codes, 16 int8 scales, a float16 scale."""
    n_blocks = shape[0] * shape[1] // 256
    codes = rng.integers(0, 256, (n_blocks, 192), np.uint8)
    scales = rng.integers(-64, 64, (n_blocks, 16), np.int8).view(np.uint8)
    scale = rng.uniform(0.0005, 0.001, (n_blocks, 1)).astype(np.float16).view(np.uint8)
    return np.concatenate([codes, scales, scale], axis=1).reshape(-1)


def _stored(name: str, matrix: StoredMatrix) -> TensorSource:
    return TensorSource(name, matrix.type, matrix.values.shape, lambda: matrix.data)


def _as_saved(matrix: StoredMatrix) -> tuple[str, npt.NDArray[Any]]:
    dtype = np.float32 if matrix.type is TensorType.F32 else np.uint16
    return _DTYPES[matrix.type], matrix.data.view(dtype).reshape(matrix.values.shape)


def _is_bf16(value: np.float32) -> bool:
    return bool(widened(bf16_bits(np.array([value])))[0] == value)


def _scalar(value: np.float32) -> npt.NDArray[Any]:
    return bf16_bits(np.array([value])) if _is_bf16(value) else np.array([value], np.float32)
