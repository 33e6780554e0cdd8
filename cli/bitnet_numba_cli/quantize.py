"""``quantize``: convert the linear layers of a GGUF file to another type."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitnet_numba.files import human_size
from bitnet_numba.formats.tensor_formats import Kind, writable
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import JSON_OPTION, PATH
from bitnet_numba_cli._progress import writing

if TYPE_CHECKING:
    from bitnet_numba.export.quantize import QuantizedTensor, QuantizeResult

TYPES = tuple(writable(Kind.TERNARY))
EXAMPLES = """\b
Examples:
  bitnet-numba quantize clean-f16.gguf -o model-i2_s.gguf --type i2_s
  bitnet-numba quantize model-i2_s.gguf -o model-f16.gguf --dequantize
  bitnet-numba quantize clean-f16.gguf -o mixed.gguf --type tq2_0 --exclude "blk.0.*"
"""


@click.command("quantize", short_help="Change the type of a GGUF file's linear layers.", epilog=EXAMPLES)
@click.argument("source", metavar="IN.gguf", type=PATH)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="OUT.gguf", help="Output file; an older one is replaced."
)
@click.option("--type", "kind", type=click.Choice(TYPES), metavar="|".join(TYPES), help="Ternary type to write.")
@click.option("--dequantize", is_flag=True, help="Write ternary layers as f16 instead.")
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Convert only layers whose names match, such as 'blk.0.*'. Can be given more than once.",
)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Copy layers whose names match. Can be given more than once."
)
@JSON_OPTION
def command(
    source: Path,
    output: Path,
    kind: str | None,
    dequantize: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_json: bool,
) -> None:
    """Convert the linear layers of IN.gguf to another type; norms, embeddings and heads are copied.

    Ternary weights keep their codes and scale; master weights are quantized as in training. Every tensor is read back
    from the written file and compared before the file gets its name. The table shows which tensors are exact, and how
    far the others are from the source.
    """
    if dequantize == (kind is not None):
        raise click.UsageError("Give either --type or --dequantize")
    from bitnet_numba.export.quantize import DEQUANTIZED, QuantizeRequest, quantize_gguf  # here: it imports numpy

    request = QuantizeRequest(source, output, kind or DEQUANTIZED, include, exclude)
    with _text.removal_on_sigterm(), writing(f"Writing {request.type}") as report:
        result = quantize_gguf(request, report)
    _text.write(result.to_dict() if as_json else _report(result))


def _report(result: "QuantizeResult") -> str:
    header = ("tensor", "from", "to", "bytes", "scale", "against the source")
    lines = _ui.table(header, map(_row, result.tensors)) if result.tensors else ""
    changed, copied = len(result.tensors), result.n_copied
    return f"{lines}{result.out}: {human_size(result.size_bytes)}, {changed} tensors converted, {copied} copied\n"


def _row(tensor: "QuantizedTensor") -> tuple[str, ...]:
    return (
        tensor.name,
        tensor.stored_before,
        tensor.stored_after,
        f"{tensor.bytes_after:,}",
        f"{tensor.scale:.6g}",
        "exact" if tensor.exact else f"{100 * tensor.relative_error:.3g} % off",
    )
