"""Models on either backend, behind the protocol of backends; the fixtures in ``conftest.py`` hand them out."""

import functools
from pathlib import Path
from typing import Any

from bitnet_numba import LanguageModel
from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.backends.protocol import Backend
from bitnet_numba.demo import demo_model_path
from bitnet_numba.generate.describe import describe
from bitnet_numba.generate.engine import Engine
from bitnet_numba.model.open import open_source
from bitnet_numba.text.chat import choose_template, encode_chat
from tests.generate.running import cpu_backend

KINDS = ("cpu", "numpy")


def load(kind: str, path: Path, **options: Any) -> Backend[Any]:
    """Load a model file with the whole context that it was trained for; ``options`` as ``cpu_backend`` takes them."""
    if kind == "cpu":
        return cpu_backend(path, **options)
    return NumPyBackend(open_source(path), kv_type=options.get("kv_type", "f16"))


def load_demo(kind: str) -> LanguageModel:
    """Load the embedded model with its tokenizer and chat template."""
    source, backend = open_source("demo"), load(kind, demo_model_path())
    tokenizer = source.tokenizer()
    architecture = source.config.architecture
    template = choose_template(None, architecture=architecture, model_template=source.chat_template)
    assert template is not None
    return LanguageModel(
        Engine(backend),
        tokenizer,
        functools.partial(encode_chat, tokenizer, template),
        info=describe(source, backend, template.name, 0),
    )
