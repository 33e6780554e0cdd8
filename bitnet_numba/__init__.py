"""BitNet b1.58 language models in pure Python; each public name is imported when it is first used."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from bitnet_numba.errors import (
        AuthenticationError,
        BitNetError,
        CorrectionRefusedError,
        DiskSpaceError,
        EvidenceError,
        EvidenceUnreadableError,
        FormatError,
        GateError,
        IntegrityError,
        NetworkError,
        NonFiniteError,
        ParameterError,
        RateLimitError,
        ResourceError,
        TemplateError,
        UnsupportedError,
    )
    from bitnet_numba.generate.language_model import LanguageModel
    from bitnet_numba.generate.result import Chunk, GenerationResult
    from bitnet_numba.generate.sampling.sampler import TokenLogprob
    from bitnet_numba.options import LoadArguments, SamplingParams

    __version__: str

__all__ = [
    "AuthenticationError",
    "BitNetError",
    "Chunk",
    "CorrectionRefusedError",
    "DiskSpaceError",
    "EvidenceError",
    "EvidenceUnreadableError",
    "FormatError",
    "GateError",
    "GenerationResult",
    "IntegrityError",
    "LanguageModel",
    "NetworkError",
    "NonFiniteError",
    "ParameterError",
    "RateLimitError",
    "ResourceError",
    "SamplingParams",
    "TemplateError",
    "TokenLogprob",
    "UnsupportedError",
    "__version__",
    "load",
]

_HOMES = {
    "AuthenticationError": "bitnet_numba.errors",
    "BitNetError": "bitnet_numba.errors",
    "CorrectionRefusedError": "bitnet_numba.errors",
    "DiskSpaceError": "bitnet_numba.errors",
    "EvidenceError": "bitnet_numba.errors",
    "EvidenceUnreadableError": "bitnet_numba.errors",
    "FormatError": "bitnet_numba.errors",
    "GateError": "bitnet_numba.errors",
    "IntegrityError": "bitnet_numba.errors",
    "NetworkError": "bitnet_numba.errors",
    "NonFiniteError": "bitnet_numba.errors",
    "ParameterError": "bitnet_numba.errors",
    "RateLimitError": "bitnet_numba.errors",
    "ResourceError": "bitnet_numba.errors",
    "TemplateError": "bitnet_numba.errors",
    "UnsupportedError": "bitnet_numba.errors",
    "Chunk": "bitnet_numba.generate.result",
    "GenerationResult": "bitnet_numba.generate.result",
    "LanguageModel": "bitnet_numba.generate.language_model",
    "SamplingParams": "bitnet_numba.options",
    "TokenLogprob": "bitnet_numba.generate.sampling.sampler",
}


def load(model: str | Path | None = None, **options: "Unpack[LoadArguments]") -> "LanguageModel":
    """Load a model; close it, or use it in a ``with`` statement, to free its threads and memory.

    The first load on a machine compiles the kernels, which takes a while; later ones read them from a cache.

    Parameters
    ----------
    model : str or Path, optional
        A GGUF file, a Hugging Face directory, or the id of a model that ``bitnet-numba pull`` has fetched. Default:
        ``BITNET_GGUF``, else the model that comes with the package.
    **options
        Fields of :class:`bitnet_numba.options.LoadOptions`, such as ``threads`` and ``kv_type``.

    Raises
    ------
    BitNetError
        If the model cannot be read or served, or an option is out of range; the message names the remedy.

    Examples
    --------
    >>> import bitnet_numba
    >>> with bitnet_numba.load() as model:  # doctest: +SKIP
    ...     print(model.generate("Once upon a time", max_tokens=64).text)
    """
    import time  # here, so that `import bitnet_numba` costs nothing

    started = time.perf_counter()
    from bitnet_numba.declare import from_arguments
    from bitnet_numba.generate.load import load_model
    from bitnet_numba.options import LoadOptions
    from bitnet_numba.validate.corrected import open_corrected

    checked = from_arguments(LoadOptions, options)
    return load_model(open_corrected(model), checked, started=started)


if not TYPE_CHECKING:  # a type checker would take any misspelled name for one that this function finds

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value = import_module("importlib.metadata").version("bitnet-numba")
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
