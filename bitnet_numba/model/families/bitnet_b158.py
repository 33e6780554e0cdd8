"""BitNet b1.58 as Microsoft trains it: bitnet-b1.58-2B-4T, and ``bitnet-25``, the name of earlier conversions."""

from bitnet_numba.model.families import Family
from bitnet_numba.model.weight_rules import Bounds, InspectionRules, NormRule, Ruleset, rule

_DEEP_NORMS: tuple[NormRule, ...] = (
    rule("(attn_sub_norm|inner_attn_ln)", 0.01, 100.0, "scales what the output projection reads; grows with depth"),
    rule("ffn_sub_norm", 0.01, 100.0, "scales what the down projection reads; grows with depth"),
    rule("output_norm", 0.01, 100.0, "sets how sharp the logits are"),
    rule("attn_norm", 0.01, 2.0, "the official 2B-4T model has 0.0115 to 0.0236"),
)

F16_RULES = Ruleset(
    "bitnet-b1.58:f16",
    (
        *_DEEP_NORMS,
        rule("ffn_layernorm", 0.05, 2.0),
        rule("post_attention_layernorm", 0.25, 2.0),
        rule("input_layernorm", 0.35, 2.0),
        rule("final_(layer)?norm", 0.50, 2.0),
        rule("(attn|ffn|rms).*norm", 0.50, 2.0),
        rule("norm", 0.50, 2.0),
    ),
    Bounds(0.01, 0.40),
)
I2S_RULES = Ruleset(
    "bitnet-b1.58:i2_s",
    (
        *_DEEP_NORMS,
        rule("ffn_norm", 0.50, 2.0, "the official 2B-4T model has 1.22 to 1.51"),
        rule("final_(layer)?norm", 0.50, 2.0),
        rule("norm", 0.25, 2.0),
    ),
    Bounds(0.002, 0.20),
)

FAMILY = Family(
    architectures=("bitnet-b1.58", "bitnet-25"),
    hf_classes=("BitNetForCausalLM",),
    has_masters=True,
    activation="relu2",
    sub_norms=True,
    rope_theta=500000.0,
    chat_template="bitnet",  # templates inside its files differ from the model's training
    inspection=InspectionRules(
        floats=F16_RULES,
        ternary=I2S_RULES,
        by_gguf_name=True,  # a checkpoint has the norms of the family's GGUF files, and so the same bounds
        relatives=("bitnet", "b1.58"),
    ),
)
