"""BitNet b1.58 as 1bitLLM reproduced it, 0.7B to 3B: SiLU, and names of its own for the sub-norms."""

from dataclasses import replace

from bitnet_numba.model.families import HUGGING_FACE_NAMES, Family
from bitnet_numba.model.families.bitnet_b158 import F16_RULES, I2S_RULES
from bitnet_numba.model.weight_rules import InspectionRules

FAMILY = Family(
    architectures=("bitnet",),
    hf_classes=("BitnetForCausalLM",),  # its n is small
    has_masters=True,
    hf_quantizes=True,
    activation="silu",
    sub_norms=True,
    rope_theta=10000.0,
    inspection=InspectionRules(floats=F16_RULES, ternary=I2S_RULES),
    hugging_face=replace(
        HUGGING_FACE_NAMES,
        aliases={"self_attn.inner_attn_ln": "attn_sub_norm", "mlp.ffn_layernorm": "ffn_sub_norm"},
    ),
)
