"""``export``: a Hugging Face checkpoint as a GGUF file, or a model as a graph for other runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitnet_numba.files import human_size
from bitnet_numba.formats.tensor_formats import Kind, writable
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import JSON_OPTION, PATH
from bitnet_numba_cli._portable import FILES, export_graph
from bitnet_numba_cli._progress import writing

if TYPE_CHECKING:
    from bitnet_numba.export.model import ExportResult

TYPES = tuple(writable(Kind.FLOAT, Kind.TERNARY))
EXAMPLES = """\b
Examples:
  bitnet-numba export bitnet-2b-bf16/ -o models/ --type i2_s --hf-repo microsoft/bitnet-b1.58-2B-4T
  bitnet-numba export checkpoint/ -o models/ --strict --json
  bitnet-numba export model.gguf -o models/ --format onnx --max-context 256
"""


@click.command("export", short_help="Make a GGUF file of a Hugging Face checkpoint.", epilog=EXAMPLES)
@click.argument("model_dir", type=PATH)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="OUT_DIR", help="Output folder; made if it is missing."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("gguf", *FILES)),
    default="gguf",
    show_default=True,
    metavar="|".join(("gguf", *FILES)),
    help="Output format. All but gguf take any MODEL and need the extra of that name. PyTorch deprecates torchscript.",
)
@click.option(
    "--max-context",
    type=click.IntRange(min=1),
    metavar="N",
    help="Longest input of a graph in tokens. Default: the context that the model was trained for.",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(TYPES),
    default="f16",
    show_default=True,
    metavar="|".join(TYPES),
    help="Type of the linear layers. The first three hold the ternary weights times their scale, which an engine that "
    "knows no ternary weights runs as the same model; the last three hold them packed.",
)
@click.option("--tokenizer", type=PATH, metavar="FILE", help="A tokenizer.json. Default: the one in MODEL_DIR.")
@click.option("--hf-repo", metavar="ID", help="Repository of MODEL_DIR, for the record; its last part names the model.")
@click.option("--revision", metavar="R", help="Revision of that repository, for the record.")
@click.option(
    "--masters",
    is_flag=True,
    help="In a float type, keep the weights of the training, and mark the file: other engines run another model then.",
)
@click.option("--strict", is_flag=True, help="Refuse to round values or to drop tensors, instead of a note.")
@JSON_OPTION
def command(
    model_dir: Path,
    output: Path,
    form: str,
    max_context: int | None,
    kind: str,
    tokenizer: Path | None,
    hf_repo: str | None,
    revision: str | None,
    masters: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Write a checkpoint as clean-TYPE.gguf, with clean-TYPE.fingerprint and clean-TYPE.meta.json beside it.

    MODEL_DIR holds config.json, tokenizer.json and safetensors files: bf16, f16 or f32 master weights, or packed
    ternary ones. Norms, embeddings and heads are never quantized. The same checkpoint gives the same GGUF bytes on any
    machine. One tensor at a time is in memory, and a run that fails leaves older files unchanged.

    With another --format, OUT_DIR gets one graph, clean.onnx, clean.pt2 or clean.pt. It is kept only if its logits on a
    short prompt match the engine's.
    """
    if form != "gguf":
        export_graph(model_dir, output, form, max_context, as_json=as_json)
        return
    if max_context is not None:
        raise click.UsageError("--max-context is about graphs; leave it out with --format gguf")
    from bitnet_numba.export.model import ExportRequest, export_model  # here, because it imports numpy

    request = ExportRequest(model_dir, output, kind, tokenizer, hf_repo, revision, masters, strict)
    with _text.removal_on_sigterm(), writing(f"Writing {kind}") as report:
        result = export_model(request, report)
    _ui.say_notes(result.notes)
    _text.write(result.meta if as_json else _ui.tables({"Export": _facts(result)}))


def _facts(result: "ExportResult") -> dict[str, object]:
    meta = result.meta
    return {
        "file": result.gguf,
        "size": f"{human_size(meta['size_bytes'])} ({meta['size_bytes']:,} bytes)",
        "fingerprint": meta["fingerprint"],
        "tensors": f"{meta['tensors']}, {meta['quantized_tensors']} of them ternary",
        "record": result.meta_file,
    }
