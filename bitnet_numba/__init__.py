"""BitNet b1.58 language models in pure Python; each public name is imported when it is first used."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bitnet_numba.errors import BitNetError
    from bitnet_numba.generate.language_model import LanguageModel
    from bitnet_numba.generate.result import Chunk, GenerationResult
    from bitnet_numba.generate.sampler import TokenLogprob
    from bitnet_numba.generate.sampling_params import SamplingParams

    __version__: str

__all__ = [
    "BitNetError",
    "Chunk",
    "GenerationResult",
    "LanguageModel",
    "SamplingParams",
    "TokenLogprob",
    "__version__",
    "load",
]

_HOMES = {
    "BitNetError": "bitnet_numba.errors",
    "Chunk": "bitnet_numba.generate.result",
    "GenerationResult": "bitnet_numba.generate.result",
    "LanguageModel": "bitnet_numba.generate.language_model",
    "SamplingParams": "bitnet_numba.generate.sampling_params",
    "TokenLogprob": "bitnet_numba.generate.sampler",
}


def load(
    model: str | Path | None = None,
    *,
    threads: int | None = None,
    kv_type: Literal["f16", "f32", "int8"] = "f16",
    max_context: int | None = None,
    chat_template: str | None = None,
    head: Literal["exact", "full"] = "exact",
    kept_prefixes: int = 4,
) -> "LanguageModel":
    """Load a model file and make it ready to generate.

    The first load on a machine compiles the kernels, which takes a while; later ones read them from a cache.

    Parameters
    ----------
    model : str or Path, optional
        A GGUF file, a Hugging Face directory, or ``org/name[@revision][:file]`` for a model that ``bitnet-numba pull``
        has fetched. By default ``BITNET_GGUF`` where the environment sets it, else the small model that comes with the
        package.
    threads : int, optional
        How many threads share the work; by default ``BITNET_NUM_THREADS`` where set, else one for each core. The
        results do not depend on it.
    kv_type : {"f16", "f32", "int8"}
        How keys and values are kept: in half or single precision, or as whole numbers with a scale for each position of
        a head, which halves their memory once more and costs some accuracy.
    max_context : int, optional
        The most positions that one sequence may take; by default what the model was trained for.
    chat_template : str, optional
        How :meth:`LanguageModel.chat` writes turns: a name such as ``"llama3"`` or ``"chatml"``, ``"model"`` for the
        template inside the model, or a template file. By default the one that suits the model.
    head : {"exact", "full"}
        How the output head finds the next token: ``"exact"`` reads an int8 copy of it, and from the head itself only
        the rows that can matter; the result is that of ``"full"``, which reads the head in the model's own format.
    kept_prefixes : int
        Of how many of the last sequences keys and values are kept, so that what begins alike, such as the next turn of
        a conversation, is not read again; 0 to 64. They take at most the memory of one sequence of the whole context
        (or a page of 256 positions each), and are dropped where memory is short. The results do not depend on it.

    Returns
    -------
    LanguageModel
        Close it, or use it in a ``with`` statement, to give its threads and memory back.

    Raises
    ------
    BitNetError
        If the model cannot be read or served, or an argument is out of range; the message names the remedy.

    Examples
    --------
    >>> import bitnet_numba
    >>> with bitnet_numba.load() as model:  # doctest: +SKIP
    ...     print(model.generate("Once upon a time", max_tokens=64).text)
    """
    from bitnet_numba.generate.load import load_model  # here, so that `import bitnet_numba` costs nothing
    from bitnet_numba.validate.corrected import open_corrected

    return load_model(
        model,
        threads=threads,
        kv_type=kv_type,
        max_context=max_context,
        chat_template=chat_template,
        head=head,
        kept_prefixes=kept_prefixes,
        open_model=open_corrected,
    )


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
