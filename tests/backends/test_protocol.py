"""What generation relies on, from both backends: the same bits in any chunks and batches, caches, refusals, counts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba import LanguageModel
from bitnet_numba.backends.protocol import MAX_STEP_TOKENS, PAGE_POSITIONS, Backend, CandidateQuery, TokenChunk
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.model.open import open_source
from tests.generate.running import logits_of, read
from tests.oracle import oracle_logits
from tests.tiny import toy_model

FAMILIES = ("bitnet-b1.58", "bitnet", "llama")
LENGTH = 530  # crosses 256 and 512, where a cache begins another page
VOCAB = 270

Load = Callable[..., Backend[Any]]
Ints = npt.NDArray[np.int32]


def toy_file(folder: Path, architecture: str = "bitnet-b1.58") -> Path:
    """Write a narrow model with a long context."""
    heads = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 20}
    sizes = {"hidden_size": 64, "intermediate_size": 100, "vocab_size": VOCAB, "max_seq_len": LENGTH}
    return toy_model(architecture, seed=5, **heads, **sizes).gguf(TensorType.F16).write(folder / "toy.gguf")


@pytest.fixture(scope="module")
def toy(load_backend: Load, tmp_path_factory: pytest.TempPathFactory) -> Backend[Any]:
    return load_backend(toy_file(tmp_path_factory.mktemp("toy")))


def text(n: int, seed: int = 0) -> Ints:
    return np.random.default_rng(seed).integers(0, VOCAB, n, dtype=np.int32)


# ---- logits ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kv_type", ["f16", "f32", "int8"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_any_chunks_give_the_same_bits(load_backend: Load, architecture: str, kv_type: str, tmp_path: Path) -> None:
    backend = load_backend(toy_file(tmp_path, architecture), kv_type=kv_type)
    expected = logits_of(backend, text(LENGTH), 512)
    for chunk_size in (1, 7, 256):
        np.testing.assert_array_equal(logits_of(backend, text(LENGTH)[:300], chunk_size), expected[:300])
    backend.close()


def test_any_batch_gives_the_same_bits(toy: Backend[Any]) -> None:
    texts = [text(length, seed=length) for length in (300, 1, 17, 64)]
    expected = [logits_of(toy, tokens) for tokens in texts]
    caches = [toy.new_cache(tokens.size) for tokens in texts]
    rows: list[list[Any]] = [[] for _ in texts]
    while unread := [index for index, tokens in enumerate(texts) if caches[index].length < tokens.size]:
        pieces = [texts[index][caches[index].length :][: 20 + index] for index in unread]
        chunks = [TokenChunk(tokens, caches[index], tokens.size) for index, tokens in zip(unread, pieces, strict=True)]
        for index, candidates in zip(unread, toy.forward(chunks), strict=True):
            rows[index] += [candidate.logits for candidate in candidates]
    for mine, alone in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(mine, alone)


def test_the_last_logits_are_returned(toy: Backend[Any]) -> None:
    expected = logits_of(toy, text(9))
    for n_logits in (0, 1, 4):
        [candidates] = toy.forward([TokenChunk(text(9), toy.new_cache(9), n_logits)])
        assert len(candidates) == n_logits
        for each, row in zip(candidates, expected[9 - n_logits :], strict=True):
            np.testing.assert_array_equal(each.logits, row)
        assert all(each.ids is None and not each.is_partial for each in candidates)


def test_a_query_gets_the_highest_logit(toy: Backend[Any]) -> None:
    expected = logits_of(toy, text(9))[-1]
    [[candidates]] = toy.forward([TokenChunk(text(9), toy.new_cache(9), 1, CandidateQuery(n_best=1))])
    ids = np.arange(VOCAB) if candidates.ids is None else candidates.ids
    assert ids[candidates.logits.argmax()] == expected.argmax()
    np.testing.assert_array_equal(candidates.logits, expected[ids])


# ---- caches ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [0, 100, 256, 300, 512, 513])
def test_a_fork_and_its_origin_do_not_disturb_each_other(toy: Backend[Any], length: int) -> None:
    first = toy.new_cache(LENGTH)
    read(toy, text(513), first, 0)
    second = first.fork(LENGTH, length)
    third = second.fork(LENGTH, length)
    first.truncate(length)
    assert [first.length, second.length, third.length] == [length] * 3
    endings = [text(LENGTH - 513, seed) for seed in (1, 2, 3)]
    expected = [logits_of(toy, np.append(text(513)[:length], ending))[length:] for ending in endings]
    for start in range(0, 17, 8):
        for cache, ending, rows in zip((first, second, third), endings, expected, strict=True):
            np.testing.assert_array_equal(read(toy, ending[start : start + 8], cache), rows[start : start + 8])


def test_a_cache_changes_its_size(toy: Backend[Any]) -> None:
    cache = toy.new_cache(10)
    assert (cache.capacity, len(cache.pages)) == (10, 1)
    read(toy, text(10), cache, 0)
    cache.resize(PAGE_POSITIONS + 1)
    assert (cache.capacity, len(cache.pages)) == (PAGE_POSITIONS + 1, 2)
    np.testing.assert_array_equal(read(toy, text(20)[10:], cache), logits_of(toy, text(20))[10:])
    cache.resize(20)
    assert (cache.capacity, len(cache.pages)) == (20, 1)
    assert cache.pages[0].nbytes > 0


def test_refuses_impossible_lengths(toy: Backend[Any]) -> None:
    cache = toy.new_cache(10)
    read(toy, text(5), cache, 0)
    with pytest.raises(ParameterError, match=r"^cache: cannot cut 5 positions to 6$"):
        cache.truncate(6)
    with pytest.raises(ParameterError, match=r"^cache: 5 positions are filled, it cannot hold 4$"):
        cache.resize(4)
    for capacity, length in ((10, 6), (3, 4)):
        with pytest.raises(ParameterError, match=rf"^cache: cannot begin with {length} of 5 positions and hold"):
            cache.fork(capacity, length)
    assert (cache.length, cache.capacity) == (5, 10)


# ---- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokens", [[VOCAB], [-1], [0, 2**31 - 1], [2**32], [0.5], [], [[1, 2]]])
def test_refuses_what_are_no_tokens(toy: Backend[Any], tokens: Sequence[Any]) -> None:
    with pytest.raises(ParameterError, match=r"^tokens: expected "):
        toy.forward([TokenChunk(np.array(tokens), toy.new_cache(10))])


def test_a_refused_step_changes_no_cache(toy: Backend[Any]) -> None:
    cache, small, token = toy.new_cache(LENGTH), toy.new_cache(10), np.zeros(1, np.int32)
    long = np.zeros(MAX_STEP_TOKENS, np.int32)
    for chunks, error in (
        ([], r"^batch: 0 tokens in one step, expected 1 to 512$"),
        ([TokenChunk(token, cache), TokenChunk(long, toy.new_cache(LENGTH))], r"^batch: 513 tokens in one step"),
        ([TokenChunk(token, cache), TokenChunk(token, cache)], r"^batch: two chunks of one cache"),
        ([TokenChunk(token, cache, 2)], r"^batch: 2 logits of 1 tokens asked for$"),
    ):
        with pytest.raises(ParameterError, match=error):
            toy.forward(chunks)
    with pytest.raises(ResourceError, match=r"^11 positions needed, the cache holds 10: "):
        toy.forward([TokenChunk(token, cache), TokenChunk(np.zeros(11, np.int32), small)])
    assert (cache.length, small.length) == (0, 0)
    with pytest.raises(ResourceError, match=r"^531 positions asked for, the context holds 530: "):
        toy.new_cache(LENGTH + 1)


def test_refuses_the_cache_of_a_model_of_other_sizes(toy: Backend[Any], load_backend: Load, tmp_path: Path) -> None:
    other = load_backend(toy_model(n_layers=1).gguf().write(tmp_path / "other.gguf"))
    with pytest.raises(ParameterError, match=r"^cache: made for a model of other sizes, "):
        toy.forward([TokenChunk(np.zeros(1, np.int32), other.new_cache(8))])
    other.close()


# ---- softmax, counts, memory -----------------------------------------------------------------------------------------
def test_softmax_and_exp(toy: Backend[Any]) -> None:
    counts = np.zeros(len(toy.kernel_names), np.int64)
    logits = np.random.default_rng(1).normal(0, 8, 1000).astype(np.float32)
    exact = np.exp(logits.astype(np.float64) - logits.max())
    np.testing.assert_allclose(toy.softmax(logits, counts), exact / exact.sum(), rtol=5e-6)  # of float32 differences
    below = -np.abs(logits)
    np.testing.assert_allclose(toy.exp(below, counts), np.exp(below.astype(np.float64)), rtol=1e-6)
    assert toy.exp(np.array([0, -64.5, -1e9, -np.inf], np.float32), counts).tolist() == [1, 0, 0, 0]
    assert counts.sum() == 3
    assert toy.softmax(logits, counts).dtype == toy.exp(-np.abs(logits), counts).dtype == np.float32


def test_counts_what_ran(toy: Backend[Any]) -> None:
    before = toy.counts()
    assert len(set(toy.kernel_names)) == before.size
    toy.forward([TokenChunk(text(5), toy.new_cache(5))])
    ran = dict(zip(toy.kernel_names, (toy.counts() - before).tolist(), strict=True))
    assert all(n == 0 for name, n in ran.items() if "silu" in name)
    for operator in ("embedding", "quantize_absmax", "rope", "relu2", "head"):
        assert sum(n for name, n in ran.items() if operator in name) > 0


def test_memory_adds_up(toy: Backend[Any]) -> None:
    without, with_prefixes = toy.memory(0), toy.memory(3)
    page = toy.new_cache(1).pages[0].nbytes
    assert with_prefixes["total"] - without["total"] == with_prefixes["cached_prefixes_at_most"] == 3 * page
    assert without["kv_cache_of_full_context"] == 3 * page
    assert without["kv_cache_per_position"] * PAGE_POSITIONS == page
    assert without["total"] > without["ternary_weights"] > 0


# ---- the embedded model ----------------------------------------------------------------------------------------------
PROMPTS = ("Once upon a time", "The dog", "One day, Tom and his mom went to the")


def test_the_embedded_model_agrees_with_the_oracle(demo: LanguageModel) -> None:
    source = open_source("demo")
    for prompt in PROMPTS:
        result = demo.generate(prompt, max_tokens=40)
        tokens = np.array([*demo.tokenize(prompt), *result.token_ids[:-1]], np.int32)
        expected = oracle_logits(source, tokens)[-len(result.token_ids) :]
        assert result.token_ids == expected.argmax(axis=1).tolist()
