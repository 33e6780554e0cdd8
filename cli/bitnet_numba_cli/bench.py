"""``bench``: measure a model, and compare with an earlier run."""

from pathlib import Path
from typing import Any

import click

from bitnet_numba.errors import IntegrityError
from bitnet_numba.files import check_target
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import PATH, Size, loading_arguments, loading_options, model_by_name

EXAMPLES = """\b
Examples:
  bitnet-numba bench run model.gguf --json today.json
  bitnet-numba bench compare today.json yesterday.json
  bitnet-numba bench thresholds yesterday.json > limits.json
"""


@click.group("bench", invoke_without_command=True, short_help="Measure a model's speed, and compare.", epilog=EXAMPLES)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Measure a model as a share of what the machine's memory can do, and find regressions."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@command.command("run")
@model_by_name
@loading_options
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True, metavar="N", help="Tokens to decode.")
@click.option(
    "-p", "--prompt", default="Once upon a time", show_default=True, metavar="TEXT", help="What is read first."
)
@click.option(
    "--warmup-tokens", type=click.IntRange(1), default=10, show_default=True, metavar="N", help="Generated before."
)
@click.option("--json", "json_path", type=PATH, metavar="FILE", help="Write the figures, which 'bench compare' reads.")
@click.option("--receipt", type=PATH, metavar="FILE", help="Write the receipt of the generation.")
@click.option("--min-size", type=Size(), default=0, metavar="SIZE", help="Refuse a smaller model: 1GB, 500MB.")
def run(
    tokens: int,
    prompt: str,
    warmup_tokens: int,
    json_path: Path | None,
    receipt: Path | None,
    min_size: int,
    **options: Any,
) -> None:
    """Measure MODEL: warm-up, prompt, and N tokens one by one, with a read test of the memory before and after.

    Decoding reads every weight once a token, so its bound is the speed of memory: the share of it tells how good a
    figure is on any machine. A run that decodes fewer tokens than asked fails.
    """
    from bitnet_numba.evidence.benchmarks.run import run_benchmark  # here, because it imports numpy
    from bitnet_numba.evidence.documents import write_document
    from bitnet_numba.evidence.facts import identify

    for path in filter(None, (json_path, receipt)):
        check_target(path)
    with loaded({**loading_arguments(options), "cached_prefixes": 0}) as model:
        identity = identify(model)
        if identity.size_bytes < min_size:
            size = f"has {identity.size_bytes:,} bytes, expected at least {min_size:,}"
            raise IntegrityError(f"{model.config.name}: {size}; measure a larger model, or drop --min-size")
        benchmark, written = run_benchmark(model, identity, prompt=prompt, tokens=tokens, warmup_tokens=warmup_tokens)
    with _text.removal_on_sigterm():
        if json_path is not None:
            write_document(json_path, benchmark)
        if receipt is not None:
            write_document(receipt, written)
    _text.write(_report(benchmark))
    if benchmark["model"]["is_test_model"]:
        _ui.say("note: a test model, below 1 GB: its speed says little about larger ones")
    if benchmark["model"]["is_synthetic"]:
        _ui.say("note: a synthetic model: its weights were not trained, so only its speed has a meaning")


@command.command("compare")
@click.argument("current", type=PATH)
@click.argument("baseline", type=PATH)
@click.option("--thresholds", type=PATH, metavar="FILE", help="Limits, as 'bench thresholds' writes them.")
@click.option(
    "--format", "form", type=click.Choice(["human", "json", "junit", "markdown"]), default="human", show_default=True
)
def compare(current: Path, baseline: Path, thresholds: Path | None, form: str) -> None:
    """Compare the benchmark CURRENT with BASELINE, metric by metric.

    15 % worse is a regression, unless the thresholds file says otherwise; 5 % better an improvement. Across machines,
    only bytes and shares of the memory's speed are compared. Exit status: 0, 17 after a regression.
    """
    from bitnet_numba.evidence.benchmarks import report
    from bitnet_numba.evidence.benchmarks.compare import compare_benchmarks, notes, read_benchmark, read_thresholds

    now, before = read_benchmark(current), read_benchmark(baseline)
    changes = compare_benchmarks(now, before, None if thresholds is None else read_thresholds(thresholds))
    remarks = list(notes(now, before))
    has_regression = any(change.status == "regression" for change in changes)
    if form == "json":
        rows = [{name: getattr(change, name) for name in change.__slots__} for change in changes]
        _text.write({"verdict": "regression" if has_regression else "pass", "changes": rows, "notes": remarks})
    else:
        writers = {"human": report.as_text, "junit": report.as_junit, "markdown": report.as_markdown}
        _text.write(writers[form](changes, remarks))
    if has_regression:
        click.get_current_context().exit(17)


@command.command("thresholds")
@click.argument("file", type=PATH)
def thresholds(file: Path) -> None:
    """Print limits 15 % worse than the benchmark FILE, for 'bench compare --thresholds'."""
    from bitnet_numba.evidence.benchmarks.compare import read_benchmark, thresholds_of
    from bitnet_numba.evidence.documents import dump

    _text.write(dump(thresholds_of(read_benchmark(file))).decode())


def _report(found: dict[str, Any]) -> str:
    timing, speed, memory = found["timing"], found["performance"], found["memory"]
    rows = [
        ("warm-up", f"{timing['warmup_ms']:,.0f} ms"),
        ("prefill", f"{timing['prefill_ms']:,.1f} ms, {speed['prefill_tokens_per_sec']:,.1f} tokens/s"),
        ("decode", f"{timing['decode_ms']:,.1f} ms, {speed['tokens_per_sec']:,.2f} tokens/s"),
        ("memory", f"{memory['bytes_per_token'] / 1e6:,.0f} MB a token, {memory['achieved_gb_per_second']:,.1f} GB/s"),
        ("read test", f"{memory['read_gb_per_second']:,.1f} GB/s; decode reaches {memory['bandwidth_share']:.0%}"),
        ("peak memory", f"{memory['peak_rss_mb']:,.0f} MB"),
    ]
    return "".join(f"{name:<12} {value}\n" for name, value in rows)
