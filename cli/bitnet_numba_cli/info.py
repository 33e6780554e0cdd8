"""``info``: model, machine, kernels and memory plan of a run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba.errors import ResourceError
from bitnet_numba.files import human_size
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import JSON_OPTION, loading_arguments, loading_options, model_by_name

if TYPE_CHECKING:
    from bitnet_numba import LanguageModel

N_TOKENS = 2  # of the prompt, and of the answer
UNKNOWN = "not known: the system does not tell, or kernels were compiled just now; run it again"


@click.command("info", short_help="Show model, CPU, kernels and memory.")
@model_by_name
@loading_options
@click.option(
    "--memory",
    "memory_only",
    is_flag=True,
    help="Show only the memory plan, and fail if the process has used more.",
)
@JSON_OPTION
def command(as_json: bool, memory_only: bool, **options: Any) -> None:
    """Show the model, the CPU, the kernels chosen, the threads, the kernel cache and the memory plan.

    The kernels are those that ran for a prompt of two tokens and an answer of two. The memory check compares the peak
    of the process with the plan: packed weights, the head's int8 copy, the KV cache, cached prefixes, the file's pages
    that were read, and 300 MB for everything else.
    """
    from bitnet_numba.generate.memory_check import check_memory  # here, because it imports numpy

    with loaded(loading_arguments(options)) as model:
        cached_bytes = model.prefix_cache_bytes
        kernels = _kernels(model)
        n_positions = min(2 * N_TOKENS, model.max_context)
        cache = _cache()
        check = check_memory(model.info(), n_positions, cached_bytes, compiled=not cache["warm"])
        sections = {**model.info(), "memory_check": check, "cpu": _cpu(), "kernels": kernels, "kernel_cache": cache}
    if memory_only:
        sections = {name: sections[name] for name in ("memory", "memory_check")}
    readable = {_title(name): _readable(name, facts) for name, facts in sections.items()}
    _text.write(sections if as_json else _ui.tables(readable))
    if memory_only and check["holds"] is False:
        raise ResourceError(
            f"memory: the process has used {human_size(check['peak'])}, the plan allows {human_size(check['allowed'])};"
            " please report this with the tables above"
        )


def _cpu() -> dict[str, Any]:
    from bitnet_numba.backends.cpu.simd import cpu  # here, because it imports numba
    from bitnet_numba.machine_limits import usable_cores

    limit = usable_cores()
    return {
        "name": cpu.brand(),
        "usable_cores": limit.cores,
        "cores_limited_by": limit.reason,
        "instruction_sets": list(cpu.available_isas()),
        "chosen": cpu.isa(),
        "features": sorted(cpu.features()),
    }


def _cache() -> dict[str, Any]:
    """Describe the kernel cache; it was warm if nothing that has run had to be compiled."""
    from bitnet_numba.backends.cpu.compiler import kernel_cache  # here, because it imports numba
    from bitnet_numba.backends.cpu.compiler.compiled import compiled
    from bitnet_numba.backends.cpu.compiler.shipped import shipped

    folder, package = kernel_cache.cache_folder(), shipped()
    return {
        "folder": None if folder.path is None else str(folder.path),
        "warm": compiled.kernels == 0,
        "compiled": compiled.kernels,
        "not_kept_because": folder.reason,
        "shipped": package.reason or (None if package.folder is None else str(package.folder)),
    }


def _kernels(model: "LanguageModel") -> dict[str, Any]:
    prompt = [0] * min(N_TOKENS, model.max_context)
    result = model.generate(prompt, max_tokens=N_TOKENS, ignore_eos=True)
    reason = model.engine.backend.threads_reason
    return {
        "threads": result.threads,
        "threads_by": reason,
        "instruction_set": result.isa,
        "ids": sorted(result.kernels),
    }


def _title(name: str) -> str:
    return "CPU" if name == "cpu" else name.replace("_", " ").capitalize()


def _readable(section: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Turn values into text, sizes of the memory plan with units."""
    shown = {name.replace("_", " "): _value(section, value) for name, value in facts.items()}
    if "corrections" in facts:
        shown["corrections"] = f"{len(facts['corrections'])}, see --json" if facts["corrections"] else "none"
    return shown


def _value(section: str, value: object) -> str:
    if value is None:
        return UNKNOWN if section == "memory_check" else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return human_size(value) if section in ("memory", "memory_check") else f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
