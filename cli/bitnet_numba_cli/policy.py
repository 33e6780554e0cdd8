"""``policy``: check a policy file, or have one suggested."""

from pathlib import Path

import click

from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import JSON_OPTION, MODEL_OPTION, PATH, model_by_name

EXAMPLES = """\b
Examples:
  bitnet-numba policy check corrections.yml
  bitnet-numba policy suggest model.gguf > corrections.yml
"""


@click.group("policy", invoke_without_command=True, short_help="Check or suggest policies.", epilog=EXAMPLES)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Check policy files, and suggest corrections for a model that is known to be bad."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@command.command("check")
@click.argument("file", type=PATH)
@JSON_OPTION
def check(file: Path, as_json: bool) -> None:
    """Check FILE: a correction policy, or a policy with rulesets for 'inspect --gate policy'."""
    from bitnet_numba.validate.policies import check_policy  # here, because it imports numpy

    summary = check_policy(file)
    _text.write(summary if as_json else "".join(f"{name}: {value}\n" for name, value in summary.items()))


@command.command("suggest")
@model_by_name
@MODEL_OPTION
def suggest(model: str | None) -> None:
    """Write a correction policy for MODEL to stdout, from what 'inspect --ln-stats' finds suspicious.

    It is a starting point for a person to judge: only the model's makers know what its weights should be. If nothing is
    suspicious, nothing is written.
    """
    from bitnet_numba.validate.suggest import suggest_policy  # here, because it imports numpy

    policy = suggest_policy(model)
    if policy is None:
        _ui.say("nothing suspicious that a correction could mend")
    else:
        _text.write(policy)
