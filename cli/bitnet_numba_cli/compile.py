"""``compile``: compile the kernels that a model needs ahead of its first use."""

from typing import Any

import click

from bitnet_numba.errors import ResourceError
from bitnet_numba_cli import _text
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import JSON_OPTION, loading_arguments, loading_options, model_by_name

EXAMPLES = """\b
Examples:
  bitnet-numba compile
  bitnet-numba compile -m model.gguf --kv-type int8
  BITNET_CACHE_DIR=/opt/kernels bitnet-numba compile
"""


@click.command("compile", short_help="Compile a model's kernels ahead of its first use.", epilog=EXAMPLES)
@model_by_name
@loading_options
@JSON_OPTION
def command(as_json: bool, **options: Any) -> None:
    """Compile the kernels that a model needs, and keep them, so that later starts compile nothing.

    Kernels differ by instruction set, by the number formats of embedding and head, and by --kv-type: compile with the
    model and the options that will be used. Fails if the kernels cannot be kept.
    """
    with loaded(loading_arguments(options)) as model:
        isa = model.isa
    from bitnet_numba.backends.cpu.compiler.compiled import compiled  # here, because it imports numba
    from bitnet_numba.backends.cpu.compiler.kernel_cache import cache_folder

    folder = cache_folder()
    if compiled.kernels and folder.reason is not None:
        raise ResourceError(f"kernels were compiled and cannot be kept: {folder.reason}")
    facts = {
        "instruction_set": isa,
        "compiled": compiled.kernels,
        "seconds": round(compiled.seconds, 1),
        "folder": str(folder.path),
    }
    if as_json:
        _text.write(facts)
    elif compiled.kernels:
        _text.write(f"{compiled.kernels} kernels for {isa} compiled in {compiled.seconds:.1f} s: {folder.path}\n")
    else:
        _text.write(f"nothing to compile for {isa}: {folder.path}\n")
