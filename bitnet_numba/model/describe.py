"""Facts of an open model, as ``info`` shows them and programs read them: sizes, parameters, types, corrections."""

import math
from dataclasses import asdict
from typing import Any

from bitnet_numba.model.config import SIZES
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.source import ModelSource, expected_shapes


def model_facts(source: ModelSource, chat_template: str | None) -> dict[str, Any]:
    """Return facts by name; ``chat_template`` is the name of the template in use."""
    config = source.config
    shapes = expected_shapes(config, tied=source.tied)
    sizes = {role: math.prod(shape) for role, shape in shapes.items()}
    return {
        "name": config.name,
        "path": str(source.path),
        "architecture": config.architecture,
        "parameters": sum(sizes.values()),
        "ternary_parameters": sum(size for role, size in sizes.items() if role.name in LINEAR_ROLES),
        **{name: getattr(config, name) for name in (*SIZES, "vocab_size", "max_seq_len")},
        "activation": config.activation,
        "tied_head": source.tied,
        "chat_template": chat_template,
        "tensor_types": dict(source.tensor_types()),
        "corrections": [asdict(record) for record in source.corrections],
    }
