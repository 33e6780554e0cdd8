"""``validate``: check a model strictly, from its bytes to the text that it generates."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import JSON_OPTION, MODEL_OPTION, PATH, model_by_name

if TYPE_CHECKING:
    from bitnet_numba.validate.check import Validation

EXAMPLES = """\b
Examples:
  bitnet-numba validate model.gguf
  bitnet-numba validate checkpoint/ --tokenizer tokenizer.json
  bitnet-numba validate model.gguf --json > report.json
"""


@click.command("validate", short_help="Check a model, from its bytes to its text.", epilog=EXAMPLES)
@model_by_name
@MODEL_OPTION
@click.option("--tokenizer", type=PATH, metavar="FILE", help="A tokenizer.json to use instead of the model's own.")
@JSON_OPTION
def command(model: str | None, tokenizer: Path | None, as_json: bool) -> None:
    """Check MODEL in stages: strictly, deterministically, without corrections.

    The exit status is that of the first stage that fails: 10 the files cannot be read, 11 a norm is outside the
    ruleset, 12 there are no norms, 13 the model does not load, or a projection is missing, not finite or outside the
    ruleset, 14 the model cannot generate, 15 the generated text is not language. 0: all passed.

    The last stage looks only at generated text: the probe 'The capital of France is' and longer texts, all greedy.
    """
    from bitnet_numba.validate.check import validate_model  # here, because it imports numba

    validation = validate_model(model, tokenizer=tokenizer)
    _text.write(validation.to_dict() if as_json else _report(validation))
    if validation.exit_code:
        n_findings = sum(map(len, validation.findings.values()))
        _ui.say(
            f"error: {validation.model}: {n_findings} findings, the first in stage {validation.exit_code}; "
            "see the report, and the page 'triage a bad file' of the documentation"
        )
        click.get_current_context().exit(validation.exit_code)


def _report(validation: "Validation") -> str:
    from bitnet_numba.validate.check import MEANINGS  # here, because it imports numba
    from bitnet_numba.validate.probe import PROMPT

    lines = []
    for stage, meaning in MEANINGS.items():
        lines.append(f"{stage:d}  {validation.status(stage):<8} {meaning}")
        lines += [f"    {finding}" for finding in validation.findings.get(stage, [])]
    if validation.probe is not None:
        lines.append(f"probe: {PROMPT + validation.probe.text!a}")
    return "".join(f"{line}\n" for line in lines)
