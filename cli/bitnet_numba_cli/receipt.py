"""``receipt``: verify, replay, show and compare receipts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import JSON_OPTION, MODEL_OPTION, PATH, THREADS_OPTION

if TYPE_CHECKING:
    from bitnet_numba.evidence.replay import Replay

EXAMPLES = """\b
Examples:
  bitnet-numba run "Once upon a time" --receipt answer.json
  bitnet-numba receipt verify answer.json
  bitnet-numba receipt replay answer.json
"""
_SHOWN_LEAVES = 8


@click.group("receipt", invoke_without_command=True, short_help="Verify and replay receipts.", epilog=EXAMPLES)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Verify receipts of 'run --receipt', and compute their answers again."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@command.command("verify")
@click.argument("file", type=PATH)
@click.option("--require-gpu-kernels", is_flag=True, help="Fail unless a GPU kernel ran, whatever the backend.")
@click.option("--require-quantized-kernels", is_flag=True, help="Fail unless a quantized CPU kernel ran.")
@JSON_OPTION
def verify(file: Path, require_gpu_kernels: bool, require_quantized_kernels: bool, as_json: bool) -> None:
    """Check the receipt FILE by itself: its form, its claims, and whether its numbers agree.

    Exit status: 0, 15 if it fails, with every reason, 2 if it cannot be read. Receipts of other programs are checked
    for their claims about kernels. Only 'receipt replay' shows that the tokens come from the model.
    """
    from bitnet_numba.evidence.verify import verify_receipt  # here, because it imports numpy and jsonschema

    checked = verify_receipt(file, require_gpu=require_gpu_kernels, require_quantized=require_quantized_kernels)
    reasons = [str(finding) for finding in checked.findings]
    if as_json:
        verdict = "pass" if checked.passed else "fail"
        _text.write({"file": str(file), "verdict": verdict, "reasons": reasons, "replayable": checked.is_replayable})
    else:
        lines = [f"{'PASS' if checked.passed else 'FAIL'}  {file}", *(f"      {reason}" for reason in reasons)]
        if checked.passed and not checked.is_replayable:
            lines.append("      of another program: its claims hold together, no token can be replayed")
        _text.write("".join(f"{line}\n" for line in lines))
    if not checked.passed:
        click.get_current_context().exit(15)


@command.command("replay")
@click.argument("file", type=PATH)
@MODEL_OPTION
@THREADS_OPTION
@click.option("--decode", is_flag=True, help="Generate token by token instead of verifying 16 tokens a step.")
@click.option("--steps", type=click.IntRange(1), metavar="K", help="Check only K stretches of 16 tokens, at random.")
@JSON_OPTION
def replay(file: Path, decode: bool, steps: int | None, as_json: bool, **options: Any) -> None:
    """Compute the answer of the receipt FILE again, and compare every hidden state and every token.

    Exit status: 0 if all agree, 16 if not, with the first position that differs, 15 if the receipt fails 'receipt
    verify', 2 if it cannot be read. Any machine gives the same bits, with any number of threads.
    """
    from bitnet_numba.evidence.verify import verify_receipt  # here, because it imports numpy and jsonschema

    if decode and steps is not None:
        raise click.UsageError("--decode generates the whole answer; drop --steps")
    checked = verify_receipt(file)
    checked.require(str(file))
    if not checked.is_replayable:
        raise click.UsageError(f"{file}: is of another program and holds no tokens; only 'receipt verify' takes it")
    outcome = _replay(checked.receipt, options, decode=decode, steps=steps)
    if as_json:
        _text.write(outcome.to_dict())
    else:
        _text.write(_report(file, checked.receipt, outcome))
    if not outcome.confirmed:
        click.get_current_context().exit(16)


def _replay(receipt: Mapping[str, Any], options: Mapping[str, Any], *, decode: bool, steps: int | None) -> "Replay":
    from bitnet_numba.evidence.facts import identify
    from bitnet_numba.evidence.replay import replay
    from bitnet_numba_cli._model import loaded

    stated = {name: value for name, value in options.items() if value is not None}
    with loaded({**stated, **receipt["load_options"]}) as model:
        return replay(receipt, model, identify(model), decode=decode, steps=steps)


def _report(file: Path, receipt: Mapping[str, Any], outcome: "Replay") -> str:
    if not outcome.confirmed:
        lines = [f"DIFFERS  {file}", *(f"         {difference.message}" for difference in outcome.differences)]
        return "".join(f"{line}\n" for line in lines)
    n_leaves, generated_ms = len(receipt["hidden_leaves"]), receipt["performance_baseline"]["total_ms"]
    part = "" if len(outcome.leaves) == n_leaves else f" ({len(outcome.leaves)} of {n_leaves} stretches, at random)"
    return (
        f"CONFIRMED  {file}\n"
        f"           {outcome.positions} tokens{part} in {outcome.seconds:.2f} s;"
        f" generating the answer took {generated_ms / 1000:.2f} s\n"
    )


@command.command("show")
@click.argument("file", type=PATH)
def show(file: Path) -> None:
    """Print the receipt FILE as tables, and whether it passes 'receipt verify'."""
    from bitnet_numba.evidence.verify import verify_receipt  # here, because it imports numpy and jsonschema

    checked = verify_receipt(file)
    receipt = checked.receipt
    plain = {name: value for name, value in receipt.items() if not isinstance(value, dict | list)}
    lists = {name: _listed(value) for name, value in receipt.items() if isinstance(value, list)}
    nested = {name: value for name, value in receipt.items() if isinstance(value, dict)}
    verdict = {"verify": "pass" if checked.passed else "; ".join(map(str, checked.findings))}
    _text.write(_ui.tables({"Receipt": {**verdict, **plain, **lists}, **nested}))


def _listed(values: list[Any]) -> str:
    shown = " ".join(map(str, values[:_SHOWN_LEAVES]))
    return f"{shown} ... ({len(values):,} in all)" if len(values) > _SHOWN_LEAVES else shown


@command.command("diff")
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@JSON_OPTION
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Compare two receipts, field by field.

    Exit status: 0 if model, prompt, sampling, tokens and digests agree, 15 if not. Times, machine and kernels may
    differ between two runs of the same answer.
    """
    from bitnet_numba.evidence.compare import compare_receipts
    from bitnet_numba.evidence.documents import read_document

    changes = compare_receipts(read_document(first)[0], read_document(second)[0])
    if as_json:
        _text.write({"equal": not any(change.is_essential for change in changes), "changes": [*map(str, changes)]})
    else:
        _text.write("".join(f"{change}\n" for change in changes) or "no difference\n")
    if any(change.is_essential for change in changes):
        click.get_current_context().exit(15)
