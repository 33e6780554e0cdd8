"""``baseline``: record what a model file is like, and find what has changed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba.errors import BitNetError, CorrectionRefusedError, EvidenceError, ParameterError, printable
from bitnet_numba.files import exists
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import JSON_OPTION, MODEL_OPTION, PATH, model_by_name

if TYPE_CHECKING:
    from bitnet_numba.evidence.baselines.record import Baseline

EXAMPLES = """\b
Examples:
  bitnet-numba baseline create model.gguf
  bitnet-numba baseline verify docs/baselines/model-i2_s-gguf.json model.gguf
  bitnet-numba baseline update docs/baselines/model-i2_s-gguf.json model.gguf --reason "new tokenizer"
"""
FOLDER = Path("docs/baselines")
_PARTS = (".md", ".json", ".receipt.json")
_BENCHMARK = ("Once upon a time", 64)
_MAX_LINE = 1000


def _one_line(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Refuse what would not be one line of the page, before a model is loaded."""
    if not value.strip() or not value.isprintable() or len(value) > _MAX_LINE:
        raise click.BadParameter(f"expected one line of 1 to {_MAX_LINE:,} characters", ctx, param)
    return value


COMMIT_OPTION = click.option(
    "--commit", default="not recorded", callback=_one_line, metavar="ID", help="The commit to note."
)
REASON_OPTION = click.option(
    "--reason", required=True, callback=_one_line, metavar="TEXT", help="Why; the changelog keeps it."
)


@click.group("baseline", invoke_without_command=True, short_help="Record a model, and find changes.", epilog=EXAMPLES)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Record fingerprints, norms and probe texts of a model, and compare a file with the record."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@command.command("create")
@model_by_name
@MODEL_OPTION
@click.option(
    "-o", "--out", type=PATH, metavar="FILE.md", help=f"The page. Default: {FOLDER}/<model>-<type>-<format>.md."
)
@COMMIT_OPTION
def create(model: str | None, out: Path | None, commit: str) -> None:
    """Write the baseline of MODEL: a page, the .json that counts, and the receipt of a benchmark.

    It inspects the file, generates the three probes and 64 tokens for the benchmark.
    """
    from bitnet_numba.evidence.baselines.record import default_name

    if out is not None:
        if out.suffix != ".md":
            raise click.UsageError(f"--out {out}: name a .md file; the .json comes beside it")
        _refuse_existing(out)
    baseline, receipt = _observe(model, FOLDER if out is None else out.parent, commit)
    if out is None:
        out = FOLDER / default_name(baseline)
        _refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out.with_suffix(".json"), baseline, receipt)


@command.command("verify")
@click.argument("file", type=PATH)
@model_by_name
@MODEL_OPTION
@JSON_OPTION
def verify(file: Path, model: str | None, as_json: bool) -> None:
    """Compare MODEL with the baseline FILE (.json, or the page beside it), field by field.

    Exit status: 0, 15 if a field differs or the page was edited, with every field, 2 if FILE cannot be read.
    """
    from bitnet_numba.evidence.baselines.page import is_page
    from bitnet_numba.evidence.baselines.record import compare_baseline, read_baseline
    from bitnet_numba.evidence.claims import Finding

    path = file.with_suffix(".json")
    recorded = read_baseline(path)
    if recorded["status"] == "deprecated":
        _ui.say(f"note: {path}: {printable(recorded['changelog'][-1]['change'])}")
    findings = compare_baseline(recorded, _observe(model, path.parent, speed=False)[0])
    page = path.with_suffix(".md")
    if exists(page) and not is_page(page, recorded, path.name):
        findings.append(Finding(page.name, f"is not the page of {path.name}: it was edited"))
    if as_json:
        verdict = "fail" if findings else "pass"
        _text.write({"file": str(path), "verdict": verdict, "differences": [str(each) for each in findings]})
    else:
        lines = [f"{'DIFFERS' if findings else 'PASS'}  {path}", *(f"      {finding}" for finding in findings)]
        _text.write("".join(f"{line}\n" for line in lines))
    if findings:
        click.get_current_context().exit(15)


@command.command("update")
@click.argument("file", type=PATH)
@model_by_name
@MODEL_OPTION
@REASON_OPTION
@COMMIT_OPTION
def update(file: Path, model: str | None, reason: str, commit: str) -> None:
    """Record MODEL anew in the baseline FILE; the changelog says why."""
    from bitnet_numba.evidence.baselines.record import check_updatable, read_baseline, updated

    path = file.with_suffix(".json")
    recorded = read_baseline(path)
    check_updatable(recorded)  # before the model is loaded
    observed, receipt = _observe(model, path.parent, commit)
    _write(path, updated(recorded, observed, reason), receipt)


@command.command("deprecate")
@click.argument("file", type=PATH)
@REASON_OPTION
def deprecate(file: Path, reason: str) -> None:
    """Mark the baseline FILE as one that no model is to be compared with."""
    from bitnet_numba.evidence.baselines.record import deprecated, read_baseline

    path = file.with_suffix(".json")
    _write(path, deprecated(read_baseline(path), reason), None)


@command.command("list")
@click.argument("folder", type=PATH, default=FOLDER)
@JSON_OPTION
def list_baselines(folder: Path, as_json: bool) -> None:
    """List the baselines in a folder: the pages with a .json beside them.

    Exit status: 0, 15 if one of them cannot be read, which is named.
    """
    from bitnet_numba.evidence.baselines.record import read_baseline

    if not folder.is_dir():
        raise ParameterError(f"{folder}: no such folder; name one with baselines")
    rows, damaged = [], 0
    for path in sorted(page.with_suffix(".json") for page in folder.glob("*.md")):
        if not exists(path):
            continue
        try:
            baseline = read_baseline(path)
        except BitNetError as error:
            _ui.say(f"error: {printable(str(error))}")
            rows.append((path.name, "damaged", "", ""))
            damaged += 1
        else:
            rows.append((path.name, baseline["status"], baseline["notes"]["date"], baseline["fingerprints"]["sha256"]))
    if as_json:
        keys = ("file", "status", "date", "sha256")
        _text.write({"baselines": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        _text.write(_ui.table(("file", "status", "date", "sha256"), [(*row[:3], row[3][:16]) for row in rows]))
    if damaged:
        click.get_current_context().exit(15)


def _refuse_existing(page: Path) -> None:
    """Refuse to replace a baseline, or a page that is none."""
    for path in map(page.with_suffix, _PARTS):
        if exists(path):
            raise ParameterError(
                f"{path}: exists; name another page, or use 'baseline update', which keeps its history"
            )


def _observe(
    given: str | None, folder: Path, commit: str = "not recorded", *, speed: bool = True
) -> "tuple[Baseline, dict[str, Any] | None]":
    """Return a model's baseline as it is now, and the receipt of a benchmark where its speed is wanted."""
    from bitnet_numba.evidence.baselines.record import record_baseline
    from bitnet_numba.evidence.benchmarks.run import run_benchmark
    from bitnet_numba.evidence.facts import identify
    from bitnet_numba.settings import read_settings
    from bitnet_numba.validate.inspect import inspect_model

    settings = read_settings()
    if settings.in_ci and settings.correction_variables():
        raise CorrectionRefusedError(
            f"{settings.correction_variables()[0]}: no baseline is made of corrected weights; unset it"
        )
    inspection = inspect_model(given, ln_stats=True)
    arguments = {} if given is None else {"model": given}
    with loaded({**arguments, "cached_prefixes": 0}) as model:
        if model.corrections:
            raise EvidenceError("the weights were corrected at load; unset the correction variables")
        identity, receipt, rate = identify(model), None, 0.0
        if speed:
            prompt, most = _BENCHMARK
            n_tokens = min(most, model.max_context - len(model.tokenize(prompt)))
            benchmark, receipt = run_benchmark(model, identity, prompt=prompt, tokens=n_tokens)
            rate = benchmark["performance"]["tokens_per_sec"]
        name = _name_from(folder, given or settings.model or "demo")
        baseline = record_baseline(model, identity, inspection, name=name, commit=commit, tokens_per_second=rate)
        return baseline, receipt


def _name_from(folder: Path, model: str) -> str:
    """Return a model's name as commands in another folder take it."""
    if model == "demo" or Path(model).is_absolute() or not exists(Path(model)):  # the last is a model of the hub
        return model
    relative = os.path.relpath(model, folder)
    return relative if relative.startswith(os.pardir) else f"./{relative}"


def _write(path: Path, baseline: "Mapping[str, Any]", receipt: "Mapping[str, Any] | None") -> None:
    """Write a baseline's page, JSON and receipt; each appears whole or not at all, the JSON last."""
    from bitnet_numba.evidence.baselines.page import render_page
    from bitnet_numba.evidence.documents import write_document

    page = render_page(dict(baseline), path.name).encode()
    with _text.removal_on_sigterm():
        if receipt is not None:
            write_document(path.with_suffix(".receipt.json"), dict(receipt))
        with _text.write_file(path.with_suffix(".md")) as file:
            file.write(page)
        write_document(path, dict(baseline))
    _ui.say(f"wrote {os.fspath(path)} and {path.with_suffix('.md').name}")
