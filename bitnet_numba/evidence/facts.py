"""What a receipt says of model, tokenizer and machine, read from the model that ran and the system it ran on."""

import hashlib
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from bitnet_numba.errors import ParameterError
from bitnet_numba.generate.language_model import LanguageModel
from bitnet_numba.text.tokenizer import Tokenizer
from bitnet_numba.validate.inspect import model_sha256
from bitnet_numba.validate.model_files import read_model_files

_RECORDED = re.compile(r"(BITNET|NUMBA|OMP|OPENBLAS|MKL)_[A-Z0-9_]{1,64}")
_NO_TOKEN = b"\xff\xff\xff\xff"
_MAX_TEXT = 4096
_TEST_MODEL_BYTES = 10**9
_SYNTHETIC = re.compile(r"\b(random|synth(etic)?)\b", re.IGNORECASE)


class ModelIdentity(NamedTuple):
    """A model's files and vocabulary by digest.

    Attributes
    ----------
    sha256 : str
        Of the file; of several files, of the lines that ``sha256sum`` prints.
    size_bytes : int
        Of the files with weights.
    tokenizer_sha256 : str
        See :func:`vocabulary_sha256`.
    """

    sha256: str
    size_bytes: int
    tokenizer_sha256: str


def identify(model: LanguageModel) -> ModelIdentity:
    """Hash a model's files, which takes about a second a gigabyte, and its vocabulary.

    Do it once for several receipts of one model.
    """
    files = read_model_files(Path(model.info()["model"]["path"]))
    size = sum(file.stat().st_size for file in files.files)
    return ModelIdentity(model_sha256(files), size, vocabulary_sha256(model.tokenizer))


def call_outs(model: LanguageModel, identity: ModelIdentity) -> dict[str, bool]:
    """Return why a speed may say little of models that people use.

    A test model has less than 1 GB, so much of it fits caches. A synthetic one was not trained: its name says random or
    synthetic.
    """
    return {
        "is_test_model": identity.size_bytes < _TEST_MODEL_BYTES,
        "is_synthetic": _SYNTHETIC.search(model.config.name) is not None,
    }


def vocabulary_sha256(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 of every token's bytes in the order of ids, each after its length as little-endian uint32.

    An id without a token is 0xffffffff.
    """
    digest = hashlib.sha256()
    for token_id in range(tokenizer.vocab_size):
        try:
            text = tokenizer.token_bytes(token_id)
        except ParameterError:  # an id that the vocabulary leaves out
            digest.update(_NO_TOKEN)
        else:
            digest.update(len(text).to_bytes(4, "little") + text)
    return digest.hexdigest()


def model_info(model: LanguageModel, identity: ModelIdentity) -> dict[str, Any]:
    """Return the ``model_info`` of a receipt."""
    config, facts = model.config, model.info()["model"]
    return {
        "model_path": Path(facts["path"]).name,
        "sha256": identity.sha256,
        "size_bytes": identity.size_bytes,
        "architecture": config.architecture,
        "quantization_type": "+".join(sorted(facts["tensor_types"])),
        "layers": config.n_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
    }


def environment(threads: int) -> dict[str, str]:
    """Return the ``environment`` of a receipt: versions, machine, and the variables that steer this program."""
    from bitnet_numba.backends.cpu.simd import cpu  # here, because it imports numba

    stated = {name: value for name, value in os.environ.items() if _RECORDED.fullmatch(name)}
    facts = {
        "PYTHON_VERSION": platform.python_version(),
        "NUMBA_VERSION": version("numba"),
        "BITNET_VERSION": version("bitnet-numba"),
        "OS": f"{platform.system().lower()}-{platform.machine()}",
        "CPU_BRAND": cpu.brand(),
        "CPU_FEATURES": ",".join(cpu.available_isas()),
        "NUM_THREADS": str(threads),
    }
    return {name: value[:_MAX_TEXT] for name, value in sorted({**stated, **facts}.items())}


def backend_summary(isa: str) -> str:
    """Return what was asked for, what the CPU has, and what ran."""
    from bitnet_numba.backends.cpu.simd import cpu  # here, because it imports numba
    from bitnet_numba.settings import read_settings

    requested = read_settings().isa or "auto"
    return f"requested={requested} detected=[{', '.join(cpu.available_isas())}] selected={isa}"
