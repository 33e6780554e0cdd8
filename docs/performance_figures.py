"""The charts of the performance page: what a token costs, measured and as bytes and multiply-adds predict it."""

from collections.abc import Callable, Mapping
from typing import Any

from docs.line_chart import Series, line_chart

Records = Mapping[str, Mapping[str, Any]]
"""What runs found, by the runs' names."""

SHAPES = ("0.7B", "2B-4T", "8B")
THREADS = (1, 2)
MEASURED, PREDICTED = "measured", "predicted"
COST = "milliseconds a token"


def figures(found: Records) -> dict[str, str]:
    """Return every chart as SVG, by name."""
    charts: dict[str, Callable[[Records], str]] = {
        "model-size": _model_size,
        "threads": _threads,
        "context": _context,
        "prompts": _prompts,
        "layers": _layers,
        "batch": _batch,
    }
    return {name: chart(found) for name, chart in charts.items()}


def predicted_tokens_per_second(decoded: Mapping[str, Any]) -> float:
    """Return the speed if a token cost nothing but reading; ``decoded`` is a result of ``bench.decode``."""
    return float(decoded["read_gb_per_second"] * 1e9 / decoded["bytes_per_token"])


def _pairs(name: str, color: int, points: list[tuple[float, float, float]]) -> list[Series]:
    """Return two lines, measured and predicted, of points (x, measured, predicted)."""
    prefix = f"{name}, " if name else ""
    return [
        Series(f"{prefix}{MEASURED}", [(x, measured) for x, measured, _ in points], color),
        Series(f"{prefix}{PREDICTED}", [(x, predicted) for x, _, predicted in points], color, predicted=True),
    ]


def _decoded(found: Records, shape: str, n_threads: int, x: float) -> tuple[float, float, float]:
    result = found[f"decode-{shape}-{n_threads}"]["result"]
    return x, 1e3 / result["tokens_per_second"], 1e3 / predicted_tokens_per_second(result)


def _model_size(found: Records) -> str:
    lines = []
    for color, n in enumerate(THREADS):
        sizes = [found[f"decode-{shape}-{n}"]["result"]["bytes_per_token"] / 1e6 for shape in SHAPES]
        points = [_decoded(found, shape, n, round(size)) for shape, size in zip(SHAPES, sizes, strict=True)]
        lines += _pairs(f"{n} thread{'s' if n > 1 else ''}", color, points)
    return line_chart("Decoding: the size of the model", "MB read for a token", COST, lines)


def _threads(found: Records) -> str:
    lines = []
    for color, shape in enumerate(SHAPES[:2]):
        lines += _pairs(shape, color, [_decoded(found, shape, n, n) for n in THREADS])
    return line_chart("Decoding: threads", "threads", COST, lines)


def _context(found: Records) -> str:
    points = [
        (row["context"], 1e3 / row["tokens_per_second"], 1e3 / row["predicted_tokens_per_second"])
        for row in found["context"]["result"]["contexts"]
    ]
    return line_chart("Decoding: the context", "positions behind the token", COST, _pairs("", 0, points))


def _prompts(found: Records) -> str:
    points = []
    for row in found["prompts"]["result"]["prompts"]:
        measured = 1e3 / row["prompt_tokens_per_second"]
        points.append((row["tokens"], measured, measured * row["bound_share"]))
    return line_chart("Reading: the length of the prompt", "tokens", COST, _pairs("", 0, points))


def _layers(found: Records) -> str:
    """Draw the linear layers of one block, whose shares of their two bounds give the prediction."""
    lines = []
    for color, n in enumerate(THREADS):
        products = found[f"kernels-{n}"]["result"]["products"]
        counts = sorted({row["tokens"] for row in products})
        points = [_layer_point([row for row in products if row["tokens"] == count], count) for count in counts]
        lines += _pairs(f"{n} thread{'s' if n > 1 else ''}", color, points)
    x_label = "tokens of a step"
    return line_chart("Linear layers of a block: tokens at once", x_label, COST, lines, log_x=True)


def _layer_point(rows: list[Mapping[str, Any]], count: int) -> tuple[float, float, float]:
    layers = [row for row in rows if row["layer"] != "all"]
    [whole] = [row for row in rows if row["layer"] == "all"]
    measured = sum(1e3 * row["macs_per_token"] / row["gmacs_per_second"] / 1e9 for row in layers)
    return count, measured, measured * max(whole["read_share"], whole["mac_share"])


def _batch(found: Records) -> str:
    """Draw a batch's cost a token; a step reads everything once, and multiplies by every sequence."""
    speeds = found["batch"]["result"]["tokens_per_second"]
    n_threads = found["batch"]["result"]["threads"]
    single = predicted_tokens_per_second(found[f"decode-2B-4T-{n_threads}"]["result"])
    prompt = found[f"prefill-2B-4T-{n_threads}"]["result"]["prompts"][0]
    multiplying = prompt["macs_per_token"] / prompt["peak_gmacs_per_second"] / 1e9
    points = []
    for size, speed in speeds.items():
        n = int(size)
        points.append((float(n), 1e3 / speed, 1e3 * max(1 / single / n, multiplying)))
    return line_chart("Decoding: sequences at once", "sequences", COST, _pairs("", 0, points))
