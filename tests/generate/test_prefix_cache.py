"""Sequences that begin alike: what is kept of one, what another takes of it, and that it changes nothing."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitnet_numba
from bitnet_numba import LanguageModel
from bitnet_numba.backends.protocol import PAGE_POSITIONS, Backend
from bitnet_numba.errors import BitNetError, ParameterError, ResourceError
from bitnet_numba.generate import engine as engine_module
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.prefix_cache import MIN_SHARED_TOKENS, PrefixCache
from bitnet_numba.options import KVType
from tests.both_backends import load_demo
from tests.fakes import FakeBackend, generated, random_logits, sequence_of
from tests.tiny import toy_model

PAGE, MAX_SEQUENCES = 16, 4


@dataclass
class Memory:
    """So many pages at most, of caches that are alive and of none else."""

    n_pages: int = 1000
    taken: int = 0


@dataclass
class PagedCache:
    """Holds tokens; pages are counted where they belong to it alone."""

    memory: Memory
    capacity: int
    tokens: list[int] = field(default_factory=list)
    pages: list["Page"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.resize(self.capacity)

    @property
    def length(self) -> int:
        return len(self.tokens)

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length
        del self.tokens[length:]

    def resize(self, capacity: int) -> None:
        assert capacity >= self.length
        n_pages = -(-capacity // PAGE)
        added = n_pages - len(self.pages)
        if self.memory.taken + added > self.memory.n_pages:
            raise ResourceError("no memory")
        self.pages = self.pages[:n_pages] + [Page(self.memory) for _ in range(added)]
        self.capacity = capacity

    def fork(self, capacity: int, length: int) -> "PagedCache":
        assert length <= min(self.length, capacity)
        return PagedCache(self.memory, capacity, self.tokens[:length], self.pages[: length // PAGE])


class Page:
    """Is taken as long as it lives."""

    nbytes = 8

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        memory.taken += 1

    def __del__(self) -> None:
        self._memory.taken -= 1


def store(memory: Memory, max_pages: int = 1000) -> PrefixCache[PagedCache]:
    return PrefixCache(
        lambda capacity: PagedCache(memory, capacity), MAX_SEQUENCES, max_context=max_pages * PAGE_POSITIONS
    )


def run(prefixes: PrefixCache[PagedCache], token_ids: Sequence[int], capacity: int = 100) -> int:
    """Read a sequence to its end; return how many tokens were known before."""
    cache = prefixes.begin(token_ids, capacity)
    known = cache.length
    assert cache.tokens == list(token_ids[:known])
    assert cache.capacity == capacity
    cache.tokens = list(token_ids)
    prefixes.keep(token_ids, cache)
    return known


# ---- what is taken ---------------------------------------------------------------------------------------------------
@given(
    texts=st.lists(
        st.lists(st.integers(0, 1), min_size=1, max_size=60).map(lambda tail: [2] * MIN_SHARED_TOKENS + tail),
        min_size=1,
        max_size=MAX_SEQUENCES,
    )
)
def test_the_longest_common_beginning_is_taken(texts: list[list[int]]) -> None:
    prefixes = store(Memory())
    for i, text in enumerate(texts):
        common = [_n_common(text[:-1], old) for old in texts[:i]]
        assert run(prefixes, text) == max(common, default=0)


def _n_common(first: Sequence[int], second: Sequence[int]) -> int:
    same = [a == b for a, b in zip(first, second, strict=False)]
    return same.index(False) if False in same else len(same)


def test_the_last_token_is_always_read() -> None:
    prefixes = store(Memory())
    text = list(range(20))
    assert [run(prefixes, text), run(prefixes, text), run(prefixes, text[:15])] == [0, 19, 14]
    assert run(prefixes, [*text, 99]) == 20


def test_a_few_tokens_are_not_worth_a_copy() -> None:
    prefixes = store(Memory())
    run(prefixes, range(30))
    assert run(prefixes, [*range(MIN_SHARED_TOKENS - 1), 99, 98]) == 0
    assert run(prefixes, [*range(MIN_SHARED_TOKENS), 99, 98]) == MIN_SHARED_TOKENS


def test_what_goes_on_takes_the_cache_itself_and_what_branches_off_leaves_it() -> None:
    memory = Memory()
    prefixes = store(memory)
    run(prefixes, range(40))
    assert memory.taken == 3
    going_on = prefixes.begin(range(50), 100)
    assert (going_on.length, memory.taken) == (40, 7)
    prefixes.keep([], going_on)
    del going_on
    run(prefixes, range(40))
    branch = prefixes.begin([*range(35), 99], 40)
    assert (branch.length, memory.taken) == (35, 4)  # two pages of three are shared
    assert run(prefixes, range(50)) == 40


def test_a_cache_holds_no_more_than_its_tokens() -> None:
    """As after a step that was read and not given out."""
    prefixes = store(Memory())
    cache = prefixes.begin(range(10), 100)
    cache.tokens = list(range(30))
    prefixes.keep(range(20), cache)
    assert run(prefixes, range(30)) == 20


# ---- what is dropped -------------------------------------------------------------------------------------------------
def test_the_least_recently_used_is_dropped() -> None:
    prefixes = store(Memory())
    texts = [[i] * 20 for i in range(MAX_SEQUENCES + 1)]
    for text in texts[:MAX_SEQUENCES]:
        run(prefixes, text)
    run(prefixes, texts[0])
    run(prefixes, texts[MAX_SEQUENCES])
    assert run(prefixes, [*texts[0], 9]) == 20
    assert run(prefixes, [*texts[1], 9]) == 0


def test_beginnings_of_what_is_kept_are_not_kept_again() -> None:
    memory = Memory()
    prefixes = store(memory)
    for end in (17, 33, 40, 20):
        run(prefixes, range(end))
    assert memory.taken == 3
    run(prefixes, [9] * 20)
    for other in range(MAX_SEQUENCES - 2):
        run(prefixes, [10 + other] * 20)
    run(prefixes, range(20))  # as good as the longer one used again
    run(prefixes, [20] * 20)
    assert run(prefixes, range(40)) == 39


def test_pages_that_are_shared_count_once() -> None:
    memory = Memory()
    prefixes = store(memory, max_pages=5)
    trunk = list(range(4 * PAGE))
    run(prefixes, [*trunk, 1])
    run(prefixes, [*trunk, 2])
    assert memory.taken == 5  # the second ones would be the sixth
    assert prefixes.n_bytes == 5 * Page.nbytes
    assert run(prefixes, [*trunk, 2, 3]) == len(trunk) + 1
    prefixes = store(memory, max_pages=6)
    run(prefixes, [*trunk, 1])
    run(prefixes, [*trunk, 2])
    assert run(prefixes, [*trunk, 1, 3]) == len(trunk) + 1
    assert prefixes.n_bytes == memory.taken * Page.nbytes
    prefixes.close()
    assert prefixes.n_bytes == 0


def test_what_is_larger_than_all_that_may_be_kept_is_not_kept() -> None:
    memory = Memory()
    run(store(memory, max_pages=2), range(40))
    assert memory.taken == 0


def test_where_memory_is_short_nothing_is_kept() -> None:
    memory = Memory(n_pages=10)
    prefixes = store(memory)
    run(prefixes, [1] * 40)
    run(prefixes, [2] * 40)
    assert memory.taken == 6
    assert prefixes.begin([3] * 20, 100).length == 0
    run(prefixes, [1] * 40)
    assert prefixes.new_cache(150).capacity == 150
    with pytest.raises(ResourceError):
        prefixes.new_cache(161)


def test_where_memory_is_short_a_branch_takes_what_it_leaves() -> None:
    memory = Memory(n_pages=10)
    prefixes = store(memory)
    run(prefixes, range(10 * PAGE), 10 * PAGE)
    branch = prefixes.begin([*range(20), 99], 10 * PAGE)
    assert (branch.length, branch.tokens, memory.taken) == (20, list(range(20)), 10)


def test_a_closed_store_keeps_nothing() -> None:
    memory = Memory()
    prefixes = store(memory)
    run(prefixes, range(40))
    open_one = prefixes.begin(range(20), 100)
    prefixes.close()
    prefixes.keep(range(20), open_one)
    del open_one
    assert memory.taken == 0


# ---- Python threads --------------------------------------------------------------------------------------------------
def test_keeping_never_waits() -> None:
    """A stream may be collected in the very thread that is asking for a cache."""
    prefixes: PrefixCache[PagedCache]
    memory = Memory()

    def new_cache(capacity: int) -> PagedCache:
        other = PagedCache(memory, 40, list(range(40)))
        prefixes.keep(range(40), other)
        return PagedCache(memory, capacity)

    prefixes = PrefixCache(new_cache, MAX_SEQUENCES, 1000 * PAGE_POSITIONS)
    prefixes.begin([5], 10)
    assert prefixes.begin(range(50), 100).length == 40


def test_threads_get_caches_of_their_own() -> None:
    prefixes = store(Memory())
    run(prefixes, [0] * 50)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(50):
                run(prefixes, [0] * (i + 1) + [number] * 10)
        except BaseException as error:  # handed on
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


# ---- generation ------------------------------------------------------------------------------------------------------
def test_only_what_is_new_is_computed_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakeBackend(random_logits))
    first = generated(engine, range(20), max_tokens=5)
    turn = [*range(20), *first.token_ids, 7, 8]
    expected = generated(Engine(FakeBackend(random_logits)), turn, max_tokens=1)
    monkeypatch.setattr(engine_module.time, "perf_counter", iter([0.0, 0.5]).__next__)
    second = generated(engine, turn, max_tokens=1)
    assert (first.cached_tokens, second.cached_tokens) == (0, 24)  # the last token emitted was not run
    assert (second.prompt_tokens, second.prompt_tps) == (27, 3 / 0.5)
    assert second.token_ids == expected.token_ids


def test_an_engine_without_prefix_cache_keeps_nothing() -> None:
    engine = Engine(FakeBackend(random_logits), cached_prefixes=0)
    assert [generated(engine, range(20), max_tokens=2).cached_tokens for _ in range(2)] == [0, 0]
    for bad in (-1, 65, True, 2.0):
        with pytest.raises(ParameterError, match=r"^cached_prefixes=.*: expected a whole number from 0 to 64"):
            bitnet_numba.load("demo", cached_prefixes=bad)


def test_a_stream_that_failed_is_not_cached() -> None:
    def damaged(tokens: Sequence[int]) -> Any:
        return np.full(260, np.nan, np.float32) if len(tokens) > 22 else random_logits(tokens)

    engine = Engine(FakeBackend(damaged))
    with pytest.raises(BitNetError, match="infinite or NaN"):
        list(engine.stream(sequence_of(engine, range(20))))
    assert generated(engine, range(20), max_tokens=1).cached_tokens == 0


@pytest.fixture(scope="module")
def toys(
    load_backend: Callable[..., Backend[Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[KVType], Engine]]:
    path = toy_model(vocab_size=301, max_seq_len=700).gguf().write(tmp_path_factory.mktemp("toys") / "toy.gguf")
    engines = {kind: Engine(load_backend(path, kv_type=kind)) for kind in ("f16", "f32", "int8")}
    yield engines.__getitem__
    for engine in engines.values():
        engine.close()


@pytest.mark.parametrize("kv_type", ["f16", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("f32", "int8"))])
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.sampled_from([8, 250, 256, 257, 300]), max_size=4))
def test_logits_are_those_of_a_fresh_cache(
    toys: Callable[[KVType], Engine], kv_type: KVType, seed: int, lengths: list[int]
) -> None:
    engine = toys(kv_type)
    rng = np.random.default_rng(seed)
    trunk = rng.integers(0, 301, 300).tolist()
    for length in lengths:
        prompt = trunk[:length] + rng.integers(0, 301, 3).tolist()
        result = generated(engine, prompt, max_tokens=6, logprobs=20)
        tokens = [*prompt, *result.token_ids[:-1]]
        logits = engine.logits(np.array(tokens, np.int32), 1000)[len(prompt) - 1 :]
        for entry, row in zip(result.logprobs or (), logits, strict=True):
            # the same logits in the same order, less the same logarithm
            ids = np.argsort(-row, kind="stable")[:20]
            assert [token_id for token_id, _ in entry.top] == ids.tolist()
            offsets = {np.float64(logprob) - np.float64(row[token_id]) for token_id, logprob in entry.top}
            assert max(offsets) - min(offsets) < 1e-12
        trunk[: len(tokens)] = tokens


# ---- the embedded model ----------------------------------------------------------------------------------------------
def test_a_second_turn_reads_only_what_is_new(demo: LanguageModel, backend_kind: str) -> None:
    messages = [{"role": "user", "content": "What is the capital of Japan?"}]
    for question in ("And where is it?", "Hello!"):
        turn = demo.chat(messages, max_tokens=40)
        messages += [{"role": "assistant", "content": turn.text}, {"role": "user", "content": question}]
        following = demo.chat(messages, max_tokens=40)
        assert following.cached_tokens >= turn.prompt_tokens + turn.generation_tokens - 1
        assert following.prompt_tokens - following.cached_tokens < 20
        with load_demo(backend_kind) as fresh:
            assert fresh.chat(messages, max_tokens=40).token_ids == following.token_ids
