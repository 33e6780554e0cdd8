"""Tensor names of GGUF files and Hugging Face checkpoints, translated to roles and back.

The tables here are the names that families share; a family with other names has its own table in its record.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from bitnet_numba.errors import ParameterError
from bitnet_numba.model.roles import GLOBAL_ROLES, LAYER_ROLES, Role, exists

_LAYER = "(?P<layer>0|[1-9][0-9]{0,3})"  # as it is written, so that one layer has one name


@dataclass(frozen=True, eq=False)
class TensorNames:
    """How the files of one format name a family's tensors."""

    layer_prefix: str  # of the names of a layer's tensors; ``{}`` is the layer's number
    scale: str  # the last part of the name of a matrix's separate scale; that of all other tensors is ``weight``
    names: Mapping[str, str]  # by role, without prefix and last part; a role that is missing here has no tensor
    aliases: Mapping[str, str] = field(default_factory=dict)  # role by other names, which are read but never written
    ignored: tuple[str, ...] = ()  # ends of names of tensors that say nothing new

    def renamed(self, **names: str) -> "TensorNames":
        """Return these names with others for some roles."""
        return replace(self, names={**self.names, **names})

    def name(self, role: Role) -> str:
        """Return the name of a role's tensor, or raise a ParameterError if this format has none."""
        if not exists(role):
            raise ParameterError(f"{role}: no tensor has this role; see LAYER_ROLES and GLOBAL_ROLES")
        if role.name not in self.names:
            raise ParameterError(f"{role.name}: Hugging Face checkpoints have no such tensor; config.json states it")
        prefix = "" if role.layer is None else self.layer_prefix.format(role.layer)
        return f"{prefix}{self.names[role.name]}.{self.scale if role.part == 'scale' else 'weight'}"

    def role(self, name: str) -> Role | None:
        """Return the role of the tensor of this name, or None if the family has no such name."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        layer = None if match["layer"] is None else int(match["layer"])
        role = Role(self._roles.get(match["name"], ""), layer, "weight" if match["part"] == "weight" else "scale")
        return role if exists(role) else None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        prefix = _LAYER.join(map(re.escape, self.layer_prefix.split("{}")))
        return re.compile(rf"(?:{prefix})?(?P<name>.+)\.(?P<part>weight|{re.escape(self.scale)})")

    @cached_property
    def _roles(self) -> Mapping[str, str]:
        return {name: role for role, name in self.names.items()} | dict(self.aliases)


GGUF_NAMES = TensorNames("blk.{}.", "scale", {role: role for role in (*GLOBAL_ROLES, *LAYER_ROLES)})
"""Names of llama.cpp and bitnet.cpp, which are those of the roles."""

HUGGING_FACE_NAMES = TensorNames(
    "model.layers.{}.",
    "weight_scale",
    {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
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
    },
    ignored=("rotary_emb.inv_freq",),  # old checkpoints keep them; config.json says the same
)
"""Names of transformers."""
