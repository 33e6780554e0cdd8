"""Plots of the HTML report as inline SVG: a line over positions, with a threshold where there is one."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 36


def line_plot(values: Sequence[float], label: str, x_label: str, *, limit: float | None = None) -> str:
    """Draw values at equal distances; ``limit`` is a dashed line, ``label`` is read to those who do not see it."""
    shown = [*values, *([] if limit is None else [limit])] or [0.0]
    low, high = min(shown), max(shown)
    low = 0.0 if 0 <= low < high / 2 else low
    high = high if high > low else low + max(abs(low), 1.0) * 0.1

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    def x(index: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (index / (len(values) - 1) if len(values) > 1 else 0.5)

    points = [(x(index), y(value)) for index, value in enumerate(values)]
    parts = [_level("axis", y(at)) for at in (low, high)]
    parts += [_text(LEFT - 8, y(at) + 4, f"{at:.3g}", "end") for at in (low, high)]
    if limit is not None:
        parts.append(_level("limit", y(limit)))
        parts.append(_text(WIDTH - RIGHT - 4, y(limit) - 5, f"threshold {limit:g}", "end"))
    parts.append(f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
    parts += [f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points]
    parts += [_text(x(index), HEIGHT - 18, str(index)) for index in _ticks(len(values))]
    parts.append(_text((WIDTH + LEFT) / 2, HEIGHT - 4, x_label))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _level(name: str, y: float) -> str:
    return f'<line class="{name}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(n: int) -> list[int]:
    step = max(1, -(-n // 10))
    return list(range(0, n, step))
