"""docs/reference/performance.md and its charts agree with the stored measurements."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.suite import runs
from docs.generate_performance_page import EXPLANATION, explanation, outputs, page, records
from docs.line_chart import Series, line_chart

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("path", outputs(records()), ids=lambda path: path.name)
def test_generated_pages_and_charts_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == outputs(records())[path], "run: python -m docs.generate_performance_page"


def test_the_suite_measures_what_the_page_shows() -> None:
    assert records().keys() <= {run.name for run in runs()}


@pytest.mark.parametrize("missing", ["isa", "kv", "lookup"])
def test_a_missing_measurement_is_stated(missing: str) -> None:
    found = {name: record for name, record in records().items() if name != missing}
    assert f"Not measured yet; `python -m bench.suite {missing}` does." in page(found)


def test_a_page_follows_its_numbers() -> None:
    found = records()
    run = found["decode-8B-2"]
    changed = found | {"decode-8B-2": {**run, "result": {**run["result"], "tokens_per_second": 1234.5}}}
    assert "| 1234.5 |" in page(changed)
    assert "| 1234.5 |" in explanation(EXPLANATION.read_text(encoding="utf-8"), changed)
    assert "| 1234.5 |" not in page(found)


def test_every_table_names_its_command_and_date() -> None:
    text = page(records())
    sections = text.split("\n## ")[2:]  # but for the one on the machine
    for section in sections:
        if "Not measured yet" in section:
            continue
        assert re.search(r"Measured \d{4}-\d\d-\d\d", section), section
        assert "python -m bench." in section


def test_a_page_without_the_markers_of_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the table 'shapes'"):
        explanation("# Performance\n", records())


# ---- charts ----------------------------------------------------------------------------------------------------------
def drawn(**options: bool) -> ElementTree.Element:
    lines = [
        Series("measured <&>", [(1, 10.0), (10, 20.0), (100, 37.0)]),
        Series("predicted", [(1, 5.0), (100, 40.0)], color=1, predicted=True),
    ]
    return ElementTree.fromstring(line_chart("A & B", "x", "y", lines, **options))


def centres(chart: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in chart.iter(f"{SVG}circle")]


def test_measured_points_are_marked_at_their_coordinates() -> None:
    (left, low), (middle, _), (right, high) = centres(drawn(log_x=True))
    assert middle == pytest.approx((left + right) / 2)  # equal ratios, equal distances
    zero, top = 380 - 52, 102  # of 0 and 40
    assert low == pytest.approx(zero + (top - zero) * 10 / 40, abs=0.1)
    assert high == pytest.approx(zero + (top - zero) * 37 / 40, abs=0.1)
    assert centres(drawn())[1][0] < middle


def test_texts_are_escaped_and_every_value_has_a_mark() -> None:
    texts = [text.text for text in drawn(log_x=True).iter(f"{SVG}text")]
    assert {"A & B", "measured <&>", "predicted", "x", "y"} <= set(texts)
    assert [text for text in texts if text in ("1", "10", "100")] == ["10", "1", "10", "100"]  # 10 is on both axes


def test_charts_have_colors_for_dark_pages() -> None:
    style = next(drawn().iter(f"{SVG}style")).text or ""
    light, dark = style.split("@media(prefers-color-scheme:dark)")
    for rule in (".page", "text", ".grid", ".c0", ".c1"):
        assert f"{rule}{{" in light
        assert f"{rule}{{" in dark
