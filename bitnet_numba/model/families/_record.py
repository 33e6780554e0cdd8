"""The record of an architecture: names, shapes, graph, defaults and rules, read by loading, export and inspection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bitnet_numba.model.families._names import GGUF_NAMES, HUGGING_FACE_NAMES, TensorNames
from bitnet_numba.model.roles import Role
from bitnet_numba.model.weight_rules import GENERIC_INSPECTION, InspectionRules

if TYPE_CHECKING:
    from bitnet_numba.model.config import ModelConfig

Activation = Literal["relu2", "silu"]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Family:
    """An architecture that differs from the others in names, flags and defaults.

    With ``adjacent_pairs``, GGUF files have the rows of q and k in the order of RoPE pairs (2i, 2i + 1); loading reads
    them so, and export reorders them. Hugging Face checkpoints always have pairs (i, i + head_dim / 2).
    """

    architectures: tuple[str, ...]  # values of ``general.architecture`` in GGUF files; an export writes the first
    hf_classes: tuple[str, ...]  # values of ``architectures`` in ``config.json``
    requires_quant_method: bool = False  # ``config.json`` must state ``bitnet``, as these classes have float models too
    has_masters: bool = False  # float linear layers of its GGUF files are master weights, which the engine quantizes
    hf_quantizes: bool = False  # its class of transformers quantizes whatever ``config.json`` says
    activation: Activation  # of the gate in the feed-forward network
    sub_norms: bool  # an RMSNorm stands before the output projection, and one before the down projection
    adjacent_pairs: bool = False
    rope_theta: float  # RoPE's base where the file does not state it
    chat_template: str | None = None  # name of the built-in template that is the default; None: the model's own
    inspection: InspectionRules = GENERIC_INSPECTION  # healthy ranges of norms and projections
    gguf: TensorNames = GGUF_NAMES
    hugging_face: TensorNames = HUGGING_FACE_NAMES

    def is_class_of(self, hf_classes: Sequence[object], quant_method: object) -> bool:
        """Tell whether a ``config.json`` with these classes describes a model of this family."""
        is_named = any(name in hf_classes for name in self.hf_classes)
        return is_named and (quant_method == "bitnet" or not self.requires_quant_method)

    def shapes(self, config: "ModelConfig", *, tied: bool) -> dict[Role, Shape]:
        """Return every tensor of a model of this family, and its shape, outermost dimension first."""
        hidden, ffn = config.hidden_size, config.intermediate_size
        heads, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        per_layer: dict[str, Shape] = {
            "attn_norm": (hidden,),
            "attn_q": (heads, hidden),
            "attn_k": (kv, hidden),
            "attn_v": (kv, hidden),
            "attn_output": (hidden, heads),
            "ffn_norm": (hidden,),
            "ffn_gate": (ffn, hidden),
            "ffn_up": (ffn, hidden),
            "ffn_down": (hidden, ffn),
        }
        if self.sub_norms:
            per_layer |= {"attn_sub_norm": (heads,), "ffn_sub_norm": (ffn,)}
        shapes = {Role("token_embd"): (config.vocab_size, hidden), Role("output_norm"): (hidden,)}
        if not tied:
            shapes[Role("output")] = (config.vocab_size, hidden)
        for layer in range(config.n_layers):
            shapes |= {Role(name, layer): shape for name, shape in per_layer.items()}
        return shapes
