"""One table: every instruction set, pool, batch and way to cut a prompt gives the same logits, bit for bit."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest

from bench.digest import Way
from tests.backends.cpu.toys_of_digest import write_toys
from tests.subprocesses import ISAS, for_each_isa, run_python

pytestmark = pytest.mark.slow  # compiles every kernel for every instruction set

THREADS = (1, 2)
CHUNKS = (1, 7, 64, 512)
BATCHES = (1, 16)
WAYS = [Way(*values) for values in itertools.product(THREADS, BATCHES, CHUNKS)]
FEW_WAYS = [Way(*values) for values in itertools.product(THREADS, (1,), (7, 64))]
TOYS = ("bitnet-b1.58", "bitnet", "llama")

Digests = dict[tuple[str, str], str]


def digests(isa: str, toys: list[str]) -> Digests:
    """Return the digests by model and way, made with one instruction set."""
    batches = ["--batches", *map(str, BATCHES)]
    found = reports(isa, toys, CHUNKS, "--prompt-tokens", "520", *batches) + reports(isa, ["demo"], (7, 64))
    return {(report["model"], way): sha256 for report in found for way, sha256 in report["digests"].items()}


def reports(isa: str, models: list[str], chunks: Iterable[int], *options: str) -> list[dict[str, Any]]:
    ways = ["--chunks", *map(str, chunks), "--threads", *map(str, THREADS)]
    done = run_python("-m", "bench.digest", *models, *ways, *options, "--tokens", "64", BITNET_ISA=isa)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {report["isa"] for report in found} == {isa}
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Digests]:
    """Return the digests for each instruction set."""
    toys = [str(path) for path in write_toys(tmp_path_factory.mktemp("toys"))]
    return for_each_isa(lambda isa: digests(isa, toys))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("model", TOYS)
@pytest.mark.parametrize("isa", ISAS)
def test_toys_have_one_digest(isa: str, model: str, way: Way, table: dict[str, Digests]) -> None:
    assert table[isa][model, str(way)] == table["generic"][model, str(WAYS[0])]


@pytest.mark.parametrize("way", FEW_WAYS, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_the_embedded_model_has_one_digest(isa: str, way: Way, table: dict[str, Digests]) -> None:
    assert table[isa]["demo", str(way)] == table["generic"]["demo", str(FEW_WAYS[0])]


def test_models_differ(table: dict[str, Digests]) -> None:
    firsts = [table["generic"][model, str(FEW_WAYS[0])] for model in (*TOYS, "demo")]
    assert len(set(firsts)) == len(firsts)
