"""The fuzz targets without a fuzzer: their seeds are accepted, their changes are no findings, a finding is seen."""

import importlib
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import FormatError
from tests.fuzz import fuzz_gguf, fuzz_safetensors, fuzz_template
from tests.fuzz.driver import TARGETS
from tests.fuzz.target import Target
from tests.gguf_cases import BAD_FILES as BAD_GGUF
from tests.safetensors_cases import BAD_FILES as BAD_SAFETENSORS
from tests.text.template_cases import ATTACKS

MODULES = [fuzz_gguf, fuzz_safetensors, fuzz_template]
SEEDS = [pytest.param(module.TARGET, seed, id=seed) for module in MODULES for seed in module.TARGET.seeds()]
BAD = [
    *((fuzz_gguf.TARGET, data, words) for data, words in BAD_GGUF.values()),
    *((fuzz_safetensors.TARGET, data, words) for data, words in BAD_SAFETENSORS.values()),
    *((fuzz_template.TARGET, source.encode(), words) for source, words in ATTACKS.values() if "text" not in source),
]
each_target = pytest.mark.parametrize("target", [module.TARGET for module in MODULES], ids=lambda target: target.name)


def test_the_driver_knows_every_target() -> None:
    assert [importlib.import_module(f"tests.fuzz.fuzz_{name}").TARGET.name for name in TARGETS] == list(TARGETS)


@pytest.mark.parametrize(("target", "seed"), SEEDS)
def test_seeds_are_read_to_the_end(target: Target, seed: str) -> None:
    data = target.seeds()[seed]
    assert target.refusal(data) is None
    assert len(data) <= target.max_bytes


def test_bad_inputs_are_refused_with_their_words() -> None:
    missed = [words for target, data, words in BAD if words not in (target.refusal(data) or "accepted")]
    assert missed == []


@each_target
@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 3), changes=st.binary(max_size=4), data=st.data())
def test_changed_seeds_are_no_findings(
    target: Target, seed: int, rounds: int, changes: bytes, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    changed = data.draw(st.sampled_from(sorted(target.seeds().values())))
    for _ in range(rounds):
        changed = target.mutate(changed, rng)
    spoilt = bytearray(changed)
    for byte in changes if spoilt else b"":
        spoilt[rng.randrange(len(spoilt))] = byte
    tracemalloc.start()
    try:
        target.refusal(bytes(spoilt))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


@each_target
def test_changes_reach_deep(target: Target) -> None:
    """Changes that keep the form lead to accepted inputs too, and to many reasons of refusal."""
    good = list(target.seeds().values())
    outcomes = [target.refusal(target.mutate(good[number % len(good)], random.Random(number))) for number in range(200)]
    assert outcomes.count(None) >= 5
    assert len(set(outcomes)) >= 20


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), FormatError("two\nlines"), FormatError("\x1b[31m")])
def test_a_finding_is_seen(error: Exception) -> None:
    def fail(_data: bytes) -> None:
        raise error

    fields: dict[str, Any] = {"seeds": dict, "mutate": lambda data, _rng: data}
    target = Target("failing", read=fail, max_bytes=1, timeout_s=1, memory_mb=1, **fields)
    with pytest.raises((ValueError, MemoryError, AssertionError)):
        target.refusal(b"")
