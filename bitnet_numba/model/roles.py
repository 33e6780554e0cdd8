"""Tensor names of every family, and the roles that they stand for.

A role is named as GGUF names it; Hugging Face's names are translated here and nowhere else.
"""

import re
from dataclasses import dataclass
from typing import Literal

from bitnet_numba.errors import ParameterError

LINEAR_ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORM_ROLES = ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm")
LAYER_ROLES = LINEAR_ROLES + NORM_ROLES
GLOBAL_ROLES = ("token_embd", "output_norm", "output", "rope_freqs")

_HF_GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_HF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
    "ffn_down": "mlp.down_proj",
}
_ALIASES = {"self_attn.inner_attn_ln": "attn_sub_norm", "mlp.ffn_layernorm": "ffn_sub_norm"}  # 1bitLLM's
_FROM_HF_GLOBAL = {name: role for role, name in _HF_GLOBAL.items()}
_FROM_HF_LAYER = {name: role for role, name in _HF_LAYER.items()} | _ALIASES

_LAYER = "(?P<layer>0|[1-9][0-9]{0,3})"  # as it is written, so that one layer has one name
_GGUF_NAME = re.compile(rf"(?:blk\.{_LAYER}\.)?(?P<name>[a-z_]+)\.(?P<part>weight|scale)")
_HF_NAME = re.compile(rf"(?:model\.layers\.{_LAYER}\.)?(?P<name>[a-z_.]+)\.(?P<part>weight|weight_scale)")


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor is in the model.

    Attributes
    ----------
    name : str
        One of ``GLOBAL_ROLES`` or ``LAYER_ROLES``.
    layer : int or None
        None for the global ones.
    part : {"weight", "scale"}
        The weights, or the separate scale that some files keep for a ternary matrix.
    """

    name: str
    layer: int | None = None
    part: Literal["weight", "scale"] = "weight"


def gguf_role(name: str) -> Role | None:
    """Return the role of a GGUF tensor, or None if no known family has such a name."""
    match = _GGUF_NAME.fullmatch(name)
    if match is None:
        return None
    return _known(match["name"], match["layer"], is_scale=match["part"] == "scale")


def hf_role(name: str) -> Role | None:
    """Return the role of a Hugging Face tensor, or None if no known family has such a name."""
    match = _HF_NAME.fullmatch(name)
    if match is None:
        return None
    table = _FROM_HF_GLOBAL if match["layer"] is None else _FROM_HF_LAYER
    return _known(table.get(match["name"], ""), match["layer"], is_scale=match["part"] == "weight_scale")


def gguf_name(role: Role) -> str:
    """Return the name of a role's tensor in a GGUF file.

    Raises
    ------
    ParameterError
        If there is no such role.
    """
    _check(role)
    prefix = "" if role.layer is None else f"blk.{role.layer}."
    return f"{prefix}{role.name}.{role.part}"


def hf_name(role: Role) -> str:
    """Return the name of a role's tensor in a Hugging Face checkpoint.

    Raises
    ------
    ParameterError
        If there is no such role, or only GGUF files have it (``rope_freqs``).
    """
    _check(role)
    part = "weight_scale" if role.part == "scale" else "weight"
    if role.layer is not None:
        return f"model.layers.{role.layer}.{_HF_LAYER[role.name]}.{part}"
    if role.name not in _HF_GLOBAL:
        raise ParameterError(f"{role.name}: Hugging Face checkpoints have no such tensor; they state it in config.json")
    return f"{_HF_GLOBAL[role.name]}.{part}"


def _known(name: str, layer: str | None, *, is_scale: bool) -> Role | None:
    """Return the role if there is one of that name at that level."""
    role = Role(name, None if layer is None else int(layer), "scale" if is_scale else "weight")
    return role if _exists(role) else None


def _exists(role: Role) -> bool:
    if role.part == "scale" and role.name not in LINEAR_ROLES:
        return False
    if role.layer is None:
        return role.name in GLOBAL_ROLES
    return role.layer >= 0 and role.name in LAYER_ROLES


def _check(role: Role) -> None:
    if not _exists(role):
        raise ParameterError(f"{role}: no tensor has this role; see LAYER_ROLES and GLOBAL_ROLES")
