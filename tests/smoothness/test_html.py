"""The HTML report: harmless, self-contained, small, and working in a real browser where one is installed."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bitnet_numba.smoothness.baseline import SmoothnessRequest, establish
from bitnet_numba.smoothness.report.html import colour, html_report
from tests.smoothness.models import normal, one_file

pytestmark = pytest.mark.slow  # compiling takes some seconds

HOSTILE = "<script>document.title='taken'</script>"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("html")
    rough = normal((16, 16))
    rough[4:8] *= 8
    tensors = {HOSTILE: rough, "b.weight": normal((16, 300), 1), 'a"><img src=x onerror=alert(1)>': normal((16, 16), 2)}
    model = one_file(folder / "<b>model", tensors | {"<i>kept</i>": normal((3,))})
    return establish(SmoothnessRequest(model, folder / "out", smooth="linear", optimize=True))


class _Tags(HTMLParser):
    """Collects the tags of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_every_text_is_escaped_and_nothing_is_fetched(report: dict[str, Any]) -> None:
    page = html_report(report)
    tags = _Tags(page).found
    names = [tag for tag, _ in tags]
    assert names.count("script") == names.count("style") == 1
    assert names.count("svg") == 3
    assert not {"img", "b", "i", "link", "iframe", "object"} & set(names)
    used = {name for _, attributes in tags for name in attributes}
    assert not {name for name in used if name in ("src", "href", "srcset", "style") or name.startswith("on")}
    assert "&lt;script&gt;" in page
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_a_report_of_a_7b_model_is_small(report: dict[str, Any]) -> None:
    layer = report["per_layer"][0] | {"name": "model.layers.27.self_attn.q_proj.weight"}
    kept = {
        "name": "model.layers.27.post_attention_layernorm.weight",
        "dtype": "BF16",
        "n_bytes": 7168,
        "reason": "1-D",
    }
    large = report | {"per_layer": [layer] * 196, "kept_tensors": [kept | {"reason": "1-D"}] * 143}
    assert len(html_report(large).encode()) < 500_000


def test_colours_follow_the_score() -> None:
    assert [colour(score) for score in (0.78, 0.7799, 0.65, 0.6499)] == ["green", "amber", "amber", "red"]


# ---- in a browser ----------------------------------------------------------------------------------------------------
def opened(page: str, folder: Path, script: str, *flags: str) -> dict[str, Any]:
    """Open a page in a browser, run a script after its own, and return what it writes into the title as JSON."""
    file = folder / "page.html"
    probe = f"<script>document.title = JSON.stringify((() => {{ {script} }})());</script></body>"
    file.write_text(page.replace("</body>", probe), encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, *flags, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    found: dict[str, Any] = json.loads(title[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">"))
    return found


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_report_at_any_width(report: dict[str, Any], tmp_path: Path, width: int) -> None:
    script = """
      const shown = (svg) => svg.getBoundingClientRect().height > 50;
      return {title: document.querySelector("h1").textContent,
              wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
              plots: [...document.querySelectorAll("svg")].filter(shown).length,
              images: document.images.length, requests: performance.getEntriesByType("resource").length};"""
    found = opened(html_report(report), tmp_path, script, f"--window-size={width},900")
    assert found == {
        "title": "Smoothness metrics of <b>model",
        "wide": False,
        "plots": 3,
        "images": 0,
        "requests": 0,
    }


@needs_browser
def test_tables_are_sorted_by_keyboard(report: dict[str, Any], tmp_path: Path) -> None:
    script = """
      const table = [...document.querySelectorAll("table")].find((t) => t.textContent.includes("Weights"));
      const button = table.querySelectorAll("th button")[1];
      const weights = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[1].dataset.value));
      button.focus();
      const focused = document.activeElement === button && button.tabIndex === 0;
      button.click();
      const up = weights();
      button.click();
      const sort = button.closest("th").getAttribute("aria-sort");
      return {focused, tag: button.tagName, up, down: weights(), sort};"""
    found = opened(html_report(report), tmp_path, script)
    assert found["focused"]
    assert found["tag"] == "BUTTON"  # a browser presses it with Enter and the space bar
    assert (found["up"], found["down"]) == ([256, 256, 4800], [4800, 256, 256])
    assert found["sort"] == "descending"


@needs_browser
def test_text_has_contrast_in_light_and_dark(report: dict[str, Any], tmp_path: Path) -> None:
    script = """
      const numbers = (name, what) => getComputedStyle(document.querySelector(name))[what].match(/\\d+/g).map(Number);
      const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
      const ground = light(numbers("body", "backgroundColor"));
      const ratio = (name) => {
        const text = light(numbers(name, "color"));
        return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
      };
      return {ground, least: Math.min(...["body", ".score", ".quiet", "th button", "td"].map(ratio))};"""
    light = opened(html_report(report), tmp_path, script)
    dark = opened(html_report(report), tmp_path, script, "--blink-settings=preferredColorScheme=0")
    assert light["ground"] > 0.5 > dark["ground"]
    assert min(light["least"], dark["least"]) > 4.5
