"""Llama with ternary linear layers, such as HF1BitLLM's Llama3-8B-1.58-100B-tokens."""

from bitnet_numba.model.families import Family

FAMILY = Family(
    architectures=("llama",),
    hf_classes=("LlamaForCausalLM",),
    requires_quant_method=True,
    activation="silu",
    sub_norms=False,
    adjacent_pairs=True,
    rope_theta=10000.0,
)
