"""Line charts as SVG, readable on light and on dark pages, the same bytes from the same numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 102, 52  # margins around the plot
LEGEND_CHARACTER = 7  # pixels, about
LIGHT = ("#1f6feb", "#c4500c", "#1a7f37", "#8250df")
DARK = ("#6cb0ff", "#ff9a52", "#56d364", "#c297ff")


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes
    ----------
    name : str
    points : sequence of (float, float)
    color : int
        Lines that belong together have one color.
    predicted : bool
        Dashed, without marks.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    predicted: bool = False


@dataclass(frozen=True)
class _Axis:
    """Where values of one dimension lie, in pixels."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.begin + (self.end - self.begin) * (at - low) / (high - low)


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_x: bool = False) -> str:
    """Return a chart as SVG.

    Parameters
    ----------
    title, x_label, y_label : str
    series : sequence of Series
    log_x : bool
        Whether equal ratios lie equally far apart.

    Returns
    -------
    str
        The y axis begins at 0; the x axis has a mark at each value of the data.
    """
    xs = sorted({x for line in series for x, _ in line.points})
    step = _step(max(y for line in series for _, y in line.points))
    steps = math.ceil(max(y for line in series for _, y in line.points) / step)
    first = xs[0] if log_x else 0.0
    x_axis = _Axis(first, xs[-1], LEFT, WIDTH - RIGHT, log_x)
    y_axis = _Axis(0.0, steps * step, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        _style(),
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        _text(LEFT, 28, title, "title"),
        *_legend(series),
        *(line for i in range(steps + 1) for line in _y_mark(y_axis, i * step)),
        *(line for x in _apart(xs, x_axis) for line in _x_mark(x_axis, x)),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label, "label", "middle"),
        _text(LEFT, TOP - 10, y_label, "label"),
        *(mark for line in series for mark in _line(line, x_axis, y_axis)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _step(highest: float) -> float:
    """Return the distance of marks: 1, 2 or 5 times a power of ten, so that there are four to eight."""
    power = 10.0 ** math.floor(math.log10(highest))
    return next(power * factor for factor in (0.1, 0.2, 0.5, 1.0) if highest / (power * factor) <= 8)


def _style() -> str:
    def rules(page: str, text: str, grid: str, colors: Sequence[str]) -> str:
        lines = "".join(f".c{i}{{stroke:{color};fill:{color}}}" for i, color in enumerate(colors))
        return f".page{{fill:{page}}}text{{fill:{text}}}.grid{{stroke:{grid}}}{lines}"

    light = rules("#ffffff", "#24292f", "#d8dee4", LIGHT)
    dark = rules("#161b22", "#e6edf3", "#3a424d", DARK)
    common = "text{font:12px system-ui,sans-serif}.title{font-size:16px;font-weight:600}"
    common += ".line{fill:none!important;stroke-width:2}.predicted{stroke-dasharray:6 5}"
    return f"<style>{common}{light}@media(prefers-color-scheme:dark){{{dark}}}</style>"


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(series: Sequence[Series]) -> list[str]:
    """Name the lines below the title, in as many rows as it takes."""
    marks, x, y = [], LEFT, 46
    for line in series:
        width = 32 + LEGEND_CHARACTER * len(line.name)
        if x + width > WIDTH - RIGHT:
            x, y = LEFT, y + 18
        kind = f"line c{line.color}{' predicted' if line.predicted else ''}"
        marks.append(f'<path class="{kind}" d="M{x} {y}h26"/>')
        marks.append(_text(x + 32, y + 4, line.name, "label"))
        x += width + 14
    return marks


def _y_mark(axis: _Axis, value: float) -> list[str]:
    y = axis.place(value)
    line = f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
    return [line, _text(LEFT - 8, y + 4, f"{value:g}", "label", "end")]


def _apart(xs: Sequence[float], axis: _Axis) -> list[float]:
    """Leave out values whose marks would lie on those of others."""
    kept: list[float] = []
    for x in xs:
        if not kept or axis.place(x) - axis.place(kept[-1]) >= 36:
            kept.append(x)
    return kept


def _x_mark(axis: _Axis, value: float) -> list[str]:
    x, y = axis.place(value), HEIGHT - BOTTOM
    return [f'<path class="grid" d="M{x:.1f} {y}v5"/>', _text(x, y + 19, f"{value:,g}", "label", "middle")]


def _line(line: Series, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    kind = f"line c{line.color}{' predicted' if line.predicted else ''}"
    marks = [f'<path class="{kind}" d="M{path}"/>']
    if not line.predicted:
        marks += [f'<circle class="c{line.color}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    return marks
