"""``smoothness``: quantize a safetensors model and write its baseline metrics."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba.errors import BitNetError
from bitnet_numba.files import atomic_write, check_target
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import PATH
from bitnet_numba_cli._progress import writing

if TYPE_CHECKING:
    from bitnet_numba.smoothness.baseline import SmoothnessRequest

LOG_FILE = "baseline_metrics.log"
EXAMPLES = """\b
Examples:
  bitnet-numba smoothness checkpoint/ -o packed/ --bit-width 2
  bitnet-numba smoothness checkpoint/ -o packed/ --bit-width 4 --group-size 128 --html-report metrics.html
  bitnet-numba smoothness checkpoint/ -o packed/ --ternary --text story.txt
"""


def _choice(*values: str) -> dict[str, Any]:
    return {"type": click.Choice(values), "metavar": "|".join(values)}


@click.command("smoothness", short_help="Quantize a checkpoint and measure it (alias: metrics).", epilog=EXAMPLES)
@click.argument("model_dir", metavar="[MODEL]", type=PATH, required=False)
@click.option("--model", "model_option", type=PATH, metavar="DIR", help="The model, instead of the argument.")
@click.option("-o", "--output", type=PATH, required=True, metavar="DIR", help="Folder for the packed weights.")
@click.option("--bit-width", **_choice("2", "4", "8"), help="Bits a weight. Default: 2.")
@click.option("--ternary", is_flag=True, help="Quantize to -1, 0 and +1 times the mean magnitude, as BitNet does.")
@click.option(
    "--num-time-groups",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    metavar="N",
    help="Groups of a chain.",
)
@click.option(
    "--group-size",
    **_choice("32", "64", "128", "256"),
    help="Input columns that share a scale. Default: a whole group.",
)
@click.option(
    "--smoothness-threshold",
    type=click.FloatRange(min=0),
    default=0.3,
    show_default=True,
    metavar="X",
    help="Scale jump above which a boundary is a violation.",
)
@click.option(
    "--grouping",
    **_choice("auto", "timesteps", "depth", "rows", "columns"),
    default="auto",
    show_default=True,
    help="What the groups are: diffusion timesteps of --calibration, runs of layers, blocks of rows or of columns.",
)
@click.option(
    "--calibration", type=PATH, metavar="FILE", help='Activations, a JSON object a line: "data", "timestep", "shape".'
)
@click.option(
    "--range",
    "range_",
    **_choice("minmax", "mse"),
    default="minmax",
    show_default=True,
    help="Range of the codes: all weights, or the share of it with the least squared error.",
)
@click.option("--smooth", **_choice("linear", "cubic", "sigmoid"), help="Phase 2: smooth scales with this kernel.")
@click.option(
    "--window",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="Neighbours that --smooth uses.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    metavar="X",
    help="How far --smooth goes, 0 to 1.",
)
@click.option(
    "--max-sqnr-drop",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    metavar="DB",
    help="Largest loss of SQNR that --smooth may cost.",
)
@click.option("--optimize", is_flag=True, help="Phase 3: search scales and zero points of the least loss.")
@click.option("--text", type=PATH, metavar="FILE", help="Text to compare source and quantized model on, in the engine.")
@click.option(
    "--report",
    type=PATH,
    default=Path("baseline_metrics.json"),
    show_default=True,
    metavar="FILE",
    help=f"JSON report; {LOG_FILE} is written beside it.",
)
@click.option("--html-report", type=PATH, metavar="FILE", help="HTML report: one file that needs no network.")
@click.option("--verbose", is_flag=True, help="Show the lines of the log on stderr too.")
def command(**given: Any) -> None:
    """Quantize the linear weights of MODEL, a directory of safetensors, and measure parameters, errors and size.

    The smoothness score tells how much scale and zero point change along a chain of groups. It describes parameters and
    is no measure of quality; cosine similarity and SQNR are. Embeddings, heads, norms and biases are copied. One tensor
    at a time is in memory.
    """
    if (given["model_dir"] is None) == (given["model_option"] is None):
        raise click.UsageError("Give the model once, as an argument or with --model")
    from bitnet_numba.smoothness.baseline import establish  # here, because it imports numba
    from bitnet_numba.smoothness.report.console import console_text
    from bitnet_numba.smoothness.report.html import html_report

    report, html = given["report"], given["html_report"]
    log = _Log(report, verbose=given["verbose"])
    try:
        with _text.removal_on_sigterm(), writing("Quantizing") as progress:
            request = _request(given)
            log.say(f"Measuring {request.model}")
            result = establish(request, progress, log.say)
            for path, text in ((html, html_report(result) if html else ""), (report, _json(result))):
                if path is not None:
                    with atomic_write(path) as file:
                        file.write(text.encode())
    except BitNetError as error:
        log.write(f"error: {error}")
        raise
    shown = console_text(result)
    for line in shown.splitlines():
        log.write(line)
    _text.write(shown)


def _request(given: dict[str, Any]) -> "SmoothnessRequest":
    from bitnet_numba.smoothness.baseline import SmoothnessRequest

    files = [given["report"], *([given["html_report"]] if given["html_report"] else [])]
    bits, group_size = given["bit_width"], given["group_size"]
    own = ("model_dir", "model_option", "bit_width", "group_size", "range_", "report", "html_report", "verbose")
    return SmoothnessRequest(
        model=given["model_dir"] or given["model_option"],
        bit_width=int(bits) if bits else None,
        group_size=int(group_size) if group_size else None,
        range=given["range_"],
        files=tuple(files),
        **{name: value for name, value in given.items() if name not in own},
    )


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


class _Log:
    """The log file beside the report: every line with its time; ``say`` shows lines on stderr too if asked."""

    def __init__(self, report: Path, *, verbose: bool) -> None:
        check_target(report)
        self._path, self._verbose = report.parent / LOG_FILE, verbose
        check_target(self._path)
        self._path.write_text("", encoding="utf-8")

    def say(self, text: str) -> None:
        """Write a line, and show it if the command is verbose."""
        self.write(text)
        if self._verbose:
            _ui.say(text)

    def write(self, text: str) -> None:
        """Write a line."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError as error:
            raise BitNetError(f"{self._path}: cannot be written ({error.strerror}); choose another place") from error
