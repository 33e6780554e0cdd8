"""Roles of a model's tensors, whatever a file format calls them; the translation is in ``families/``."""

from dataclasses import dataclass
from typing import Literal

ROTATED_ROLES = ("attn_q", "attn_k")  # their rows are rotated by RoPE
LINEAR_ROLES = (*ROTATED_ROLES, "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORM_ROLES = ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm")
LAYER_ROLES = LINEAR_ROLES + NORM_ROLES
GLOBAL_ROLES = ("token_embd", "output_norm", "output", "rope_freqs")


@dataclass(frozen=True, slots=True)
class Role:
    """A tensor's function in the model: one of ``LAYER_ROLES`` in a layer, or of ``GLOBAL_ROLES`` without one.

    Part ``scale`` is the separate scale that some files have for a ternary matrix.
    """

    name: str
    layer: int | None = None
    part: Literal["weight", "scale"] = "weight"


def exists(role: Role) -> bool:
    """Tell whether a tensor of any family can have this role."""
    if role.part == "scale" and role.name not in LINEAR_ROLES:
        return False
    if role.layer is None:
        return role.name in GLOBAL_ROLES
    return role.layer >= 0 and role.name in LAYER_ROLES
