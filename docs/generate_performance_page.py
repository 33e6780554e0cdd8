"""Write docs/reference/performance.md from what was measured: ``python -m docs.generate_performance_page``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.make_model import SHAPES as MODEL_SHAPES
from docs.performance_figures import SHAPES, THREADS, Records, figures, predicted_tokens_per_second
from docs.performance_sections import SECTIONS, chosen, percent, source_of, table

REFERENCE = Path(__file__).parent / "reference"
RESULTS = REFERENCE / "performance"
EXPLANATION = Path(__file__).parent / "explanation" / "performance.md"
BEGIN, END = "<!-- {name}: made by docs/generate_performance_page.py -->\n", "<!-- end -->\n"
SERVER_CORES = 64
SERVER_GB_PER_SECOND = 390.0  # of twelve channels of DDR5-4800, 85 % of 460.8
SERVER_BARRIER_SECONDS = 5e-6  # 64 cores that take turns on a cache line, 78 ns each
BARRIERS_A_LAYER = 5
HEADER = """\
# Measured performance

<!-- Made by docs/generate_performance_page.py from the JSON files in performance/; run `make bench`, not an editor. -->

What the scripts of [bench/](../../bench) found, each beside what bounds it. `make bench` runs them all and writes this
page; [performance](../explanation/performance.md) derives the predictions. Models hold random weights of the shapes
named. Machines drift: trust shares of a bound, which is measured in the same process in turns with the rest, more than
speeds.
"""


def records(folder: Path = RESULTS) -> dict[str, Mapping[str, Any]]:
    """Return what every run found, by the run's name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def page(found: Records) -> str:
    """Return the page as Markdown."""
    return "\n".join([HEADER, *(text for section in SECTIONS for text in section(found))])


def explanation(text: str, found: Records) -> str:
    """Return the page on performance with its tables written anew."""
    for name, made in (("shapes", shapes_table(found)), ("server", server_table(found))):
        before, begin, rest = text.partition(BEGIN.format(name=name))
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f"{EXPLANATION}: no place for the table '{name}'; put its two comments back")
        text = before + begin + made + end + after
    return text


def shapes_table(found: Records) -> str:
    """Return predictions and measurements of three shapes, on the most threads."""
    rows, runs = [], []
    for shape in SHAPES:
        decode, prefill = (found[f"{script}-{shape}-{max(THREADS)}"] for script in ("decode", "prefill"))
        decoded, [prompt] = decode["result"], prefill["result"]["prompts"]
        runs += [decode, prefill]
        rows.append(
            [
                shape,
                f"{decoded['bytes_per_token'] / 1e6:,.0f}",
                f"{predicted_tokens_per_second(decoded):.1f}",
                f"{decoded['tokens_per_second']:.1f}",
                percent(decoded["mbu"]),
                f"{prompt['macs_per_token'] / 1e9:.2f}",
                f"{prompt['prompt_tokens_per_second'] / prompt['bound_share']:.0f}",
                f"{prompt['prompt_tokens_per_second']:.1f}",
                percent(prompt["bound_share"]),
            ]
        )
    header = ["", "MB a token", "decoding predicted", "measured", "share"]
    header += ["G products a token", "prompt predicted", "measured", "share"]
    return table(header, rows) + "\n" + source_of(*runs)


def server_table(found: Records) -> str:
    """Return what a server would do if it differed from here in bandwidth, multiply-adds and barriers alone."""
    rows, runs = [], chosen(found, "peak-1")
    multiplying = SERVER_CORES * runs[0]["result"]["peak_gmacs_per_second"] * 1e9
    for shape in SHAPES:
        decode, prefill = chosen(found, *(f"{script}-{shape}-{max(THREADS)}" for script in ("decode", "prefill")))
        runs += [decode, prefill]
        prompt = prefill["result"]["prompts"][0]
        reading = decode["result"]["bytes_per_token"] / SERVER_GB_PER_SECOND / 1e9
        barriers = BARRIERS_A_LAYER * MODEL_SHAPES[shape].n_layers * SERVER_BARRIER_SECONDS
        prompt_bound = multiplying / prompt["macs_per_token"]
        rows.append(
            [
                shape,
                f"{reading * 1e3:.2f}",
                f"{1 / reading:,.0f}",
                f"{decode['result']['mbu'] / reading:,.0f}",
                f"{barriers * 1e3:.2f}",
                f"{1 / (reading / decode['result']['mbu'] + barriers):,.0f}",
                f"{prompt_bound:,.0f}",
                f"{prompt_bound * prompt['mac_share']:,.0f}",
            ]
        )
    header = ["", "reading, ms", "bound, tokens/s", "at the share of here", "barriers, ms", "with these, tokens/s"]
    header += ["prompt bound, tokens/s", "at the share of here"]
    return table(header, rows) + "\n" + source_of(*runs)


def outputs(found: Records) -> dict[Path, str]:
    """Return all that is made of what was measured, by file."""
    charts = {RESULTS / f"{name}.svg": chart for name, chart in figures(found).items()}
    text = EXPLANATION.read_text(encoding="utf-8")
    return {REFERENCE / "performance.md": page(found), EXPLANATION: explanation(text, found), **charts}


if __name__ == "__main__":
    for path, text in outputs(records()).items():
        path.write_text(text, encoding="utf-8")
