"""``export --format onnx`` and ``--format torch``: a model as a graph for other runtimes, compared with the engine."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.files import human_size
from bitnet_numba_cli import _text, _ui

if TYPE_CHECKING:
    from bitnet_numba.export.portable import Exported

FILES: Mapping[str, str] = MappingProxyType({"onnx": "clean.onnx", "torch": "clean.pt2", "torchscript": "clean.pt"})
_GGUF_ONLY = ("kind", "tokenizer", "hf_repo", "revision", "strict")  # parameters without a meaning for graphs


def export_graph(model: Path, output: Path, form: str, max_context: int | None, *, as_json: bool) -> None:
    """Write a model to a folder as a graph, and report how near its logits are to the engine's."""
    context = click.get_current_context()
    given = click.core.ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        if parameter.name in _GGUF_ONLY and context.get_parameter_source(parameter.name) == given:
            raise click.UsageError(f"{parameter.opts[0]} is about GGUF files; leave it out with --format {form}")
    from bitnet_numba.model.open import open_source  # here, because it imports numpy

    write, path = _writer(form), output / FILES[form]
    with _text.removal_on_sigterm():
        source = open_source(model)
        output.mkdir(parents=True, exist_ok=True)
        _ui.say(f"Writing {path}, and running it beside the engine ...")
        report = write(source, path, max_context=max_context)
    _text.write({**asdict(report), "path": str(report.path)} if as_json else _ui.tables({"Export": _rows(report)}))


def _writer(form: str) -> Callable[..., "Exported"]:
    extra = "onnx" if form == "onnx" else "torch"
    try:
        if form == "onnx":
            from bitnet_numba.export.onnx.write import export_onnx

            return export_onnx
        from bitnet_numba.export.torch import export_torch
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"--format {form} needs {error.name}, which is not installed: pip install 'bitnet-numba[{extra}]'"
        ) from None
    return lambda *arguments, **options: export_torch(*arguments, **options, torchscript=form == "torchscript")


def _rows(report: "Exported") -> dict[str, Any]:
    return {
        "file": report.path,
        "size": f"{human_size(report.size)} ({report.size:,} bytes)",
        "compared in": f"{report.runtime}, {report.n_tokens} tokens",
        "largest difference of logits": f"{report.largest_difference:.3g}",
        "at the first position": f"{report.first_difference:.3g}",
        "correlation": f"{report.correlation:.6f}",
        "same choices": f"{report.same_choices} of {report.n_tokens}",
    }
