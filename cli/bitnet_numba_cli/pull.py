"""``pull``: download a model from the Hugging Face Hub into the cache."""

import re
from functools import partial
from typing import TYPE_CHECKING

import click

from bitnet_numba.errors import NetworkError
from bitnet_numba.files import human_size
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import JSON_OPTION, Size
from bitnet_numba_cli._progress import ProgressLine, show_download

if TYPE_CHECKING:
    from bitnet_numba.hub.pull import Pulled

TEST_MODEL_BYTES = 1_000_000_000

EXAMPLES = """\b
Examples:
  bitnet-numba pull microsoft/bitnet-b1.58-2B-4T-gguf
  bitnet-numba pull tiiuae/Falcon3-1B-Instruct-1.58bit --revision main --json
  bitnet-numba run -m microsoft/bitnet-b1.58-2B-4T-gguf "The capital of France is"
"""


class Sha256(click.ParamType[str]):
    """A SHA-256, with or without the prefix of a fingerprint."""

    name = "sha256"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the digest."""
        digest = str(value).strip().lower().removeprefix("sha256-").removeprefix("sha256:")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            self.fail(f"{value!r} is not a SHA-256; write its 64 hexadecimal digits", param, ctx)
        return digest


@click.command("pull", short_help="Fetch a model from the Hugging Face Hub.", epilog=EXAMPLES)
@click.argument("model_id")
@click.option("--file", metavar="F", help="The file to fetch. Default: the repository's only model.")
@click.option("--revision", metavar="R", help="A branch, a tag or a commit. Default: main.")
@click.option("--sha256", type=Sha256(), metavar="H", help="The SHA-256 that the file must have.")
@click.option("--min-size", type=Size(), default=0, metavar="SIZE", help="Refuse a smaller model: 1GB, 500MB.")
@click.option(
    "--offline", is_flag=True, help="Use only the cache, not the network; so do BITNET_OFFLINE and HF_HUB_OFFLINE."
)
@JSON_OPTION
def command(
    model_id: str,
    file: str | None,
    revision: str | None,
    sha256: str | None,
    min_size: int,
    offline: bool,
    as_json: bool,
) -> None:
    """Fetch the model org/name[@revision][:file] into the cache, check it, and print its path.

    Without a file, the repository's GGUF file is taken (of several, the one with i2_s in its name), else config.json,
    tokenizer and safetensors. An interrupted download resumes the next time. The cache is shared with all programs that
    use the hub's library (HF_HUB_CACHE); afterwards -m MODEL_ID runs the model.

    Exit status: 10 disk full, 11 access refused, 12 too many requests, 13 not the expected file, 14 network failed or
    offline, 130 stopped.
    """
    from bitnet_numba.hub.model_id import checked_reference
    from bitnet_numba.hub.pull import manual_download, pull  # here, so that the help text does not pay for it

    reference = checked_reference(model_id, revision=revision, file=file)
    with ProgressLine() as line:
        show = partial(show_download, line)
        try:
            pulled = pull(reference, sha256=sha256, min_size=min_size, offline=offline, report=show, say=line.say)
        except NetworkError:
            line.say(manual_download(reference, sha256))
            raise
        except KeyboardInterrupt:
            line.say("stopped; the part that was fetched is kept: run the same command to resume")
            raise
    _write(pulled, as_json)


def _write(pulled: "Pulled", as_json: bool) -> None:
    if pulled.size < TEST_MODEL_BYTES:
        _ui.say(f"note: {human_size(pulled.size)}; under 1 GB, benchmarks call it a test model")
    files = [{"path": str(each.path), "sha256": each.sha256, "size": each.size} for each in pulled.files]
    if as_json:
        sha256 = pulled.files[0].sha256 if len(files) == 1 else None
        _text.write({"path": str(pulled.path), "sha256": sha256, "size": pulled.size, "files": files})
        return
    for each in pulled.files:
        _ui.say(f"{each.path.name}: {each.size:,} bytes, sha256 {each.sha256}")
    _text.write(f"{pulled.path}\n")
