"""``baseline``: record what a model file is like, and find what has changed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba.errors import CorrectionRefusedError, EvidenceError, ParameterError
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
_BENCHMARK = ("Once upon a time", 64)


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
@click.option("--commit", default="not recorded", metavar="ID", help="The commit to note.")
def create(model: str | None, out: Path | None, commit: str) -> None:
    """Write the baseline of MODEL: a page, the .json that counts, and the receipt of a benchmark.

    It inspects the file, generates the three probes and 64 tokens for the benchmark.
    """
    from bitnet_numba.evidence.baselines.record import default_name

    baseline, receipt = _observe(model, commit)
    if out is None:
        out = FOLDER / default_name(baseline)
    if out.suffix != ".md":
        raise click.UsageError(f"--out {out}: name a .md file; the .json comes beside it")
    json_path = out.with_suffix(".json")
    if json_path.exists():
        raise ParameterError(f"{json_path}: exists; 'baseline update' changes it, with a reason")
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(json_path, baseline, receipt)


@command.command("verify")
@click.argument("file", type=PATH)
@model_by_name
@MODEL_OPTION
@JSON_OPTION
def verify(file: Path, model: str | None, as_json: bool) -> None:
    """Compare MODEL with the baseline FILE (.json, or the page beside it), field by field.

    Exit status: 0, 15 if a field differs or the page was edited, with every field, 2 if FILE cannot be read.
    """
    from bitnet_numba.evidence.baselines.page import render_page
    from bitnet_numba.evidence.baselines.record import compare_baseline, read_baseline
    from bitnet_numba.evidence.claims import Finding

    path = file.with_suffix(".json")
    recorded = read_baseline(path)
    if recorded["status"] == "deprecated":
        _ui.say(f"note: {path}: {recorded['changelog'][-1]['change']}")
    findings = compare_baseline(recorded, _observe(model, "", speed=False)[0])
    page = path.with_suffix(".md")
    if page.is_file() and _text.read_text(None, page, "page") + "\n" != render_page(recorded, path.name):
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
@click.option("--reason", required=True, metavar="TEXT", help="Why it changes; the changelog keeps it.")
@click.option("--commit", default="not recorded", metavar="ID", help="The commit to note.")
def update(file: Path, model: str | None, reason: str, commit: str) -> None:
    """Record MODEL anew in the baseline FILE; the changelog says why."""
    from bitnet_numba.evidence.baselines.record import read_baseline, updated

    path = file.with_suffix(".json")
    recorded = read_baseline(path)
    observed, receipt = _observe(model, commit)
    _write(path, updated(recorded, observed, reason), receipt)


@command.command("deprecate")
@click.argument("file", type=PATH)
@click.option("--reason", required=True, metavar="TEXT", help="Why; the changelog keeps it.")
def deprecate(file: Path, reason: str) -> None:
    """Mark the baseline FILE as one that no model is to be compared with."""
    from bitnet_numba.evidence.baselines.record import deprecated, read_baseline

    path = file.with_suffix(".json")
    _write(path, deprecated(read_baseline(path), reason), None)


@command.command("list")
@click.argument("folder", type=PATH, default=FOLDER)
@JSON_OPTION
def list_baselines(folder: Path, as_json: bool) -> None:
    """List the baselines in a folder."""
    from bitnet_numba.evidence.baselines.record import read_baseline

    if not folder.is_dir():
        raise ParameterError(f"{folder}: no such folder; name one with baselines")
    paths = sorted(path for path in folder.glob("*.json") if path.with_suffix(".md").is_file())
    rows = []
    for path in paths:
        baseline = read_baseline(path)
        rows.append((path.name, baseline["status"], baseline["notes"]["date"], baseline["fingerprints"]["sha256"]))
    if as_json:
        keys = ("file", "status", "date", "sha256")
        _text.write({"baselines": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        _text.write(_ui.table(("file", "status", "date", "sha256"), [(*row[:3], row[3][:16]) for row in rows]))


def _observe(name: str | None, commit: str, *, speed: bool = True) -> "tuple[Baseline, dict[str, Any] | None]":
    """Return a model's baseline as it is now, and the receipt of a benchmark where its speed is wanted."""
    from bitnet_numba.evidence.baselines.record import record_baseline
    from bitnet_numba.evidence.documents import read_document
    from bitnet_numba.evidence.facts import identify
    from bitnet_numba.evidence.receipt import make_receipt
    from bitnet_numba.settings import read_settings
    from bitnet_numba.validate.inspect import inspect_model

    settings = read_settings()
    if settings.in_ci and settings.correction_variables():
        raise CorrectionRefusedError(
            f"{settings.correction_variables()[0]}: no baseline is made of corrected weights; unset it"
        )
    inspection = inspect_model(name, ln_stats=True)
    with loaded({} if name is None else {"model": name}) as model:
        if model.corrections:
            raise EvidenceError("the weights were corrected at load; unset the correction variables")
        identity, receipt, rate = identify(model), None, 0.0
        if speed:
            prompt, n_tokens = _BENCHMARK
            model.generate(prompt, max_tokens=4)  # kernels are compiled and pages read before time is taken
            result = model.generate(prompt, max_tokens=n_tokens, ignore_eos=True, record=True)
            receipt, rate = make_receipt(model, identity, result), result.generation_tps
        meta = Path(model.info()["model"]["path"]).with_suffix(".meta.json")
        exported = read_document(meta)[0] if meta.is_file() else None
        baseline = record_baseline(
            model,
            identity,
            inspection,
            name=name or "demo",
            exported=exported,
            commit=commit,
            tokens_per_second=rate,
        )
        return baseline, receipt


def _write(path: Path, baseline: "Mapping[str, Any]", receipt: "Mapping[str, Any] | None") -> None:
    """Write a baseline's page, JSON and receipt; each appears whole or not at all, the JSON last."""
    from bitnet_numba.evidence.baselines.page import render_page
    from bitnet_numba.evidence.documents import write_document

    with _text.removal_on_sigterm():
        if receipt is not None:
            write_document(path.with_suffix(".receipt.json"), dict(receipt))
        with _text.write_file(path.with_suffix(".md")) as file:
            file.write(render_page(dict(baseline), path.name).encode())
        write_document(path, dict(baseline))
    _ui.say(f"wrote {os.fspath(path)} and {path.with_suffix('.md').name}")
