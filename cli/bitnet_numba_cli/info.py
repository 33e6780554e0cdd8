"""``info``: what model, machine, kernels and memory a run would have."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from bitnet_numba.files import human_size
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import JSON_OPTION, loading_arguments, loading_options

if TYPE_CHECKING:
    from bitnet_numba import LanguageModel


@click.command("info", short_help="Show model, CPU, kernels and memory.")
@loading_options
@JSON_OPTION
def command(as_json: bool, **options: Any) -> None:
    """Show the model, the CPU, the kernels chosen, the threads, the kernel cache and the memory plan.

    The kernels are those that ran when the model read two tokens and wrote two.
    """
    loading = loading_arguments(options)
    cache = _cache()
    with loaded(loading) as model:
        sections = {**model.info(), "cpu": _cpu(), "kernels": _kernels(model), "kernel_cache": cache}
    if as_json:
        _text.write_json(sections)
    else:
        _text.write_text(_ui.tables({_title(name): _readable(name, facts) for name, facts in sections.items()}))


def _cpu() -> dict[str, Any]:
    from bitnet_numba.simd import cpu  # here, because it imports numba

    return {
        "name": cpu.brand(),
        "usable_cores": cpu.usable_cores(),
        "instruction_sets": list(cpu.available_isas()),
        "chosen": cpu.isa(),
        "features": sorted(cpu.features()),
    }


def _cache() -> dict[str, Any]:
    """Describe the cache as this command finds it, before loading fills it."""
    from bitnet_numba.kernels import jit  # here, because it imports numba

    folder = jit.cache_dir()
    return {"folder": None if folder is None else str(folder), "warm": jit.is_warm()}


def _kernels(model: "LanguageModel") -> dict[str, Any]:
    prompt = [0] * min(2, model.max_context)
    result = model.generate(prompt, max_tokens=2, ignore_eos=True)
    return {"threads": result.threads, "instruction_set": result.isa, "ids": sorted(result.kernels)}


def _title(name: str) -> str:
    return "CPU" if name == "cpu" else name.replace("_", " ").capitalize()


def _readable(section: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Turn values into text: sizes of the memory plan with units, lists as words, absence as such."""
    return {name.replace("_", " "): _value(section, value) for name, value in facts.items()}


def _value(section: str, value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return human_size(value) if section == "memory" else f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
