"""The HTML report: one file with its styles, script and plots inside; it fetches nothing, and every text is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from bitnet_numba.smoothness.report.charts import line_plot
from bitnet_numba.smoothness.report.console import CAVEAT, interpretation

COLOURS = ((0.78, "green"), (0.65, "amber"))
WORST_COLOUR = "red"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

PHASES = {"smoothing": "Phase 2, boundary smoothing", "optimization": "Phase 3, optimization", "accuracy": "Accuracy"}
TIMES = ("before", "after", "delta")

Cell = str | float | None


def html_report(report: Mapping[str, Any]) -> str:
    """Return the page of a report's document."""
    title = escape(f"Smoothness metrics of {report['model_name']}")
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>{title}</title><style>{_asset('report.css')}</style></head><body><main>",
        f"<h1>{title}</h1>",
        *_head(report),
        *_plots(report),
        "<h2>Violations</h2>",
        _violations(report),
        "<h2>Patterns</h2>",
        _list(report["common_violation_patterns"]),
        *_phases(report),
        "<h2>Layers</h2>",
        _layers(report),
        "<h2>Kept tensors</h2>",
        _kept(report),
        f"</main><script>{_asset('report.js')}</script></body></html>\n",
    ]
    return "\n".join(parts)


def colour(score: float) -> str:
    """Return the class of a score's colour: green from .78, amber from .65, else red."""
    return next((name for least, name in COLOURS if score >= least), WORST_COLOUR)


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _head(report: Mapping[str, Any]) -> list[str]:
    score = report["smoothness_score"]
    facts = {
        "Cosine similarity": f"{report['cosine_similarity']:.4f}",
        "SQNR": "exact" if report["sqnr_db"] is None else f"{report['sqnr_db']:.2f} dB",
        "Violations": f"{report['violation_count']} of {len(report['boundary_scores'])} boundaries",
        "Boundary scores": f"{report['min_boundary_score']:.4f} to {report['max_boundary_score']:.4f},"
        f" mean {report['mean_boundary_score']:.4f}",
        "Swap penalty": ", ".join(_number(value, " dB") for value in report["swap_penalty_db"]) or "none",
        "Quantizer": f"{report['quantizer']}, {report['bit_width']} bits, range {report['range']},"
        f" group size {report['group_size'] or 'none'}",
        "Groups": f"{report['num_time_groups_effective']} by {report['grouping']}",
        "Bits a weight": f"{report['effective_bits_per_weight']:.3f}",
        "Compression": f"{report['compression_ratio']:.2f}x to {report['model_size_mb']:.2f} MB",
    }
    return [
        f'<p class="score {colour(score)}">{score:.4f} <span class="quiet">{interpretation(score)}</span></p>',
        f'<p class="quiet">{escape(CAVEAT)} {escape(report["grouping_reason"].capitalize())}.</p>',
        *(f"<p>Note: {escape(note)}</p>" for note in report["notes"]),
        f'<dl class="facts">{"".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())}</dl>',
    ]


def _plots(report: Mapping[str, Any]) -> list[str]:
    cosines = [layer["cosine_similarity"] for layer in report["per_layer"]]
    plots = {
        "Scale along the chain": line_plot(report["group_scales"], "Scale of each group", "group"),
        "Scale jump at each boundary": line_plot(
            report["scale_jumps"], "Scale jump at each boundary", "boundary", limit=report["smoothness_threshold"]
        ),
        "Cosine similarity of each layer": line_plot(cosines, "Cosine similarity of each layer", "layer"),
    }
    return [f'<h2>{title}</h2><figure tabindex="0">{plot}</figure>' for title, plot in plots.items()]


def _violations(report: Mapping[str, Any]) -> str:
    if not report["violations"]:
        return "<p>None.</p>"
    header = ("Boundary", "Scale jump", "Zero point jump", "Severity")
    order = {"low": 0, "medium": 1, "high": 2}
    rows = (
        [
            (str(each["boundary_idx"]), each["boundary_idx"]),
            (f"{100 * each['scale_jump']:.1f}%", each["scale_jump"]),
            (f"{100 * each['zero_point_jump']:.1f}%", each["zero_point_jump"]),
            (each["severity"], order[each["severity"]]),
        ]
        for each in report["violations"]
    )
    return _table("Violations", header, rows)


def _layers(report: Mapping[str, Any]) -> str:
    header = ("Tensor", "Weights", "Score", "Violations", "Cosine", "SQNR dB")
    rows = (
        [
            (layer["name"], None),
            (f"{layer['weights']:,}", layer["weights"]),
            (f"{layer['smoothness_score']:.4f}", layer["smoothness_score"]),
            (str(len(layer["violations"])), len(layer["violations"])),
            (f"{layer['cosine_similarity']:.4f}", layer["cosine_similarity"]),
            (_number(layer["sqnr_db"]), 1e9 if layer["sqnr_db"] is None else layer["sqnr_db"]),
        ]
        for layer in report["per_layer"]
    )
    return _table("Layers", header, rows)


def _kept(report: Mapping[str, Any]) -> str:
    header = ("Tensor", "Type", "Bytes", "Why")
    rows = (
        [(each["name"], None), (each["dtype"], None), (f"{each['n_bytes']:,}", each["n_bytes"]), (each["reason"], None)]
        for each in report["kept_tensors"]
    )
    return _table("Kept tensors", header, rows) if report["kept_tensors"] else "<p>None.</p>"


def _phases(report: Mapping[str, Any]) -> list[str]:
    parts = []
    for key, title in PHASES.items():
        if key not in report:
            continue
        section = report[key]
        parts.append(f"<h2>{title}</h2>")
        if key == "accuracy":
            parts.append(_list(f"{name}: {_number(value)}" for name, value in section.items()))
            continue
        parts.append(f"<p>{'Accepted' if section['accepted'] else 'Not used'}: {escape(section['reason'])}</p>")
        if "before" in section:
            rows = (
                [
                    (name, None),
                    *((_number(section[when][name]), section[when][name]) for when in ("before", "after", "delta")),
                ]
                for name in section["before"]
            )
            parts.append(_table(title, ("Metric", "Before", "After", "Change"), rows))
    return parts


def _table(label: str, header: Sequence[str], rows: Iterable[Sequence[tuple[str, Cell]]]) -> str:
    """Return a table whose headings are buttons that sort it; a cell is its text and its value, None for the text."""
    head = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in header)
    body = "".join(f"<tr>{''.join(_cell(*cell) for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str, value: Cell) -> str:
    mark = "" if value is None else f' data-value="{escape(str(value))}"'
    return f"<td{mark}>{escape(text)}</td>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _number(value: object, unit: str = "") -> str:
    if value is None:
        return "exact"
    return f"{value:.4g}{unit}" if isinstance(value, int | float) else str(value)
