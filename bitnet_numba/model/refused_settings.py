"""Settings of a model that change what it computes, and that are not implemented here: refused by name, never ignored.

A setting is accepted where it is missing, null, or has one of the values that change nothing.
"""

from collections.abc import Mapping
from typing import Any

from bitnet_numba.errors import UnsupportedError, excerpt

_OFF: tuple[Any, ...] = (False, 0)
_ONE: tuple[Any, ...] = (1,)

HUGGING_FACE: Mapping[str, tuple[Any, ...]] = {
    "attention_bias": _OFF,
    "mlp_bias": _OFF,
    "use_bias": _OFF,
    "qk_norm": _OFF,
    "use_qk_norm": _OFF,
    "sliding_window": (),
    "use_sliding_window": _OFF,
    "partial_rotary_factor": _ONE,
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "logit_scale": _ONE,
    "logits_scaling": _ONE,
    "attention_multiplier": (),
    "residual_multiplier": _ONE,
    "embedding_multiplier": _ONE,
    "num_experts": _OFF,
    "num_local_experts": _OFF,
    "weight_bits": _ONE,  # of 1bitLLM's configuration: 1.58 bits are called 1
    "input_bits": (8,),
}
"""Keys of ``config.json``, and their values that change nothing."""

QUANTIZATION: Mapping[str, tuple[Any, ...]] = {
    "quant_method": ("bitnet",),
    "quantization_mode": ("offline", "online"),
    "linear_class": ("bitlinear", "autobitlinear"),
    "use_rms_norm": _OFF,  # an RMSNorm inside each linear layer
}
"""Keys of its ``quantization_config``."""

ROPE: Mapping[str, tuple[Any, ...]] = {
    "partial_rotary_factor": _ONE,
    "attention_factor": (),
    "beta_fast": (),
    "beta_slow": (),
    "long_factor": (),
    "short_factor": (),
}
"""Keys of ``rope_scaling`` and ``rope_parameters``."""

GGUF: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": _OFF,
    "attention.scale": (),
    "attention.sliding_window": _OFF,
    "attention.max_alibi_bias": _OFF,
    "attn_logit_softcapping": _OFF,
    "final_logit_softcapping": _OFF,
    "embedding_scale": _ONE,
    "residual_scale": _ONE,
    "logit_scale": _ONE,
    "expert_count": _OFF,
    "rope.scaling.attn_factor": _ONE,
    "use_parallel_residual": _OFF,
}
"""Keys of a GGUF file, after its architecture."""


def refuse_settings(values: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], place: str) -> None:
    """Raise an UnsupportedError for the first key whose value would change the computation.

    ``place`` stands before the key in the message: ``config.json: ``.
    """
    for key, accepted in neutral.items():
        value = values.get(key)
        if value is None or any(type(value) in (type(one), float) and value == one for one in accepted):
            continue
        remedy = f"only {accepted[0]!r} is" if accepted else "models without it are"
        raise UnsupportedError(f"{place}key '{key}' is {excerpt(value)}, which is not run here; {remedy}")
