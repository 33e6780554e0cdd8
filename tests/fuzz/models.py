"""Small models for fuzzing, and a reader of everything in one."""

from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.source import ModelSource

SIZES = {"n_layers": 1, "hidden_size": 32, "intermediate_size": 32, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 264}


def read_tensors(source: ModelSource) -> None:
    """Read every tensor of a model, as loading does."""
    norms = ["attn_norm", "ffn_norm"]
    if source.config.sub_norms:
        norms += ["attn_sub_norm", "ffn_sub_norm"]
    for layer in range(source.config.n_layers):
        for role in LINEAR_ROLES:
            source.linear(role, layer).unpacked()
        for role in norms:
            source.norm(role, layer)
    source.norm("output_norm", None)
    source.matrix("token_embd")
    if not source.tied:
        source.matrix("output")
    source.rope_factors()
    source.tensor_types()
