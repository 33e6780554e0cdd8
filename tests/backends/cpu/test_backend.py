"""One sequence through the model: the same bits in any chunks and on any number of threads; what it refuses."""

import gc
import itertools
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.cpu.backend import CPUBackend
from bitnet_numba.backends.cpu.compiler.compiled import compiled
from bitnet_numba.backends.cpu.kernels.attention import POSITIONS_PER_BLOCK
from bitnet_numba.backends.cpu.kernels.registry import counted
from bitnet_numba.backends.cpu.kv_cache import KVCache
from bitnet_numba.backends.protocol import (
    MAX_PREFILL_CHUNK,
    MAX_STEP_TOKENS,
    PAGE_POSITIONS,
    CandidateQuery,
    Candidates,
    TokenChunk,
)
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.options import HEAD_MODES, HeadMode, KVType
from tests.fakes import wait_until
from tests.generate.running import cpu_backend, logits_of, read
from tests.tiny import ToyModel, toy_model

FAMILIES = ("bitnet-b1.58", "bitnet", "llama")
PRODUCTS = ("i2s_gemm_", "i2s_gemv_")  # with one or two instruction sets behind them
LENGTH = 530  # crosses 256 and 512, where attention begins another block


def long_toy(architecture: str, embedding_type: TensorType = TensorType.F16) -> ToyModel:
    """Return a narrow model with a long context."""
    return toy_model(
        architecture,
        seed=5,
        n_layers=2,
        hidden_size=64,
        intermediate_size=100,
        n_heads=3,
        n_kv_heads=1,
        head_dim=20,
        vocab_size=270,
        max_seq_len=LENGTH,
        embedding_type=embedding_type,
    )


def toy_file(folder: Path, architecture: str, kv_type: KVType = "f16") -> tuple[ToyModel, Path]:
    """Write a model whose embedding makes, with its cache, a pair of number formats that other tests compile too."""
    model = long_toy(architecture, TensorType.F16 if kv_type == "f16" else TensorType.BF16)
    return model, model.gguf(TensorType.F16).write(folder / "toy.gguf")


@pytest.fixture
def model(tmp_path: Path) -> CPUBackend:
    return cpu_backend(toy_file(tmp_path, "bitnet-b1.58")[1])


def single_steps(model: CPUBackend, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    cache = model.new_cache(tokens.size)
    return read(model, tokens, cache, chunk_size=1)


@pytest.mark.parametrize("kv_type", ["f16", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("f32", "int8"))])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_same_bits_in_any_chunks_on_any_threads(architecture: str, kv_type: KVType, tmp_path: Path) -> None:
    toy, path = toy_file(tmp_path, architecture, kv_type)
    tokens = toy.tokens(LENGTH)
    one = cpu_backend(path, kv_type=kv_type, threads=1)
    expected = logits_of(one, tokens)
    reference = toy.logits(tokens, kv_type)
    assert np.corrcoef(expected.reshape(-1), reference.reshape(-1))[0, 1] >= 0.9995
    assert (logits_of(one, tokens, chunk_size=7) == expected).all()
    assert (single_steps(one, tokens) == expected).all()
    for threads in (2, 3):
        several = cpu_backend(path, kv_type=kv_type, threads=threads)
        assert (logits_of(several, tokens) == expected).all()
        assert (logits_of(several, tokens, chunk_size=1)[-40:] == expected[-40:]).all()
        assert (logits_of(several, tokens[:40], chunk_size=7) == expected[:40]).all()


@pytest.mark.parametrize("last_chunk", [1, 5])
def test_returns_the_logits_that_are_asked_for(model: CPUBackend, last_chunk: int) -> None:
    tokens = np.arange(64 + last_chunk, dtype=np.int32)
    everything = logits_of(model, tokens)
    cache = model.new_cache(tokens.size + 1)
    assert everything.shape == (tokens.size, 270)
    assert read(model, tokens[:9], cache, 0).shape == (0, 270)
    assert (read(model, tokens[9:], cache, 1) == everything[-1:]).all()
    assert cache.length == tokens.size


def test_sequences_do_not_disturb_each_other(model: CPUBackend) -> None:
    first, second = np.arange(20, dtype=np.int32), np.arange(100, 120, dtype=np.int32)
    expected = logits_of(model, first)
    caches = model.new_cache(20), model.new_cache(20)
    for part in range(0, 20, 5):
        rows = read(model, first[part : part + 5], caches[0])
        read(model, second[part : part + 5], caches[1], 0)
        assert (rows == expected[part : part + 5]).all()


@pytest.mark.parametrize("others", [1, 3, 16])
def test_a_batch_changes_no_bit_of_a_sequence(model: CPUBackend, others: int) -> None:
    """Sequences of other lengths, read in chunks of other sizes, in the same steps."""
    rng = np.random.default_rng(others)
    texts = [rng.integers(0, 270, size, dtype=np.int32) for size in rng.integers(20, LENGTH, others + 1)]
    alone = [logits_of(model, text) for text in texts]
    caches = [model.new_cache(text.size) for text in texts]
    while any(cache.length < text.size for cache, text in zip(caches, texts, strict=True)):
        chunks, expected = [], []
        for number, (cache, text) in enumerate(zip(caches, texts, strict=True)):
            unread = text[cache.length :][: (1, 7, 30)[number % 3]]
            n_logits = min(unread.size, number % 4)
            if unread.size:
                chunks.append(TokenChunk(unread, cache, n_logits))
                end = cache.length + unread.size
                expected.append(alone[number][end - n_logits : end])
        found = model.forward(chunks)
        assert [len(rows) for rows in found] == [chunk.n_logits for chunk in chunks]
        assert (all_logits(found) == np.concatenate(expected)).all()


def test_a_batch_of_single_tokens_continues_as_each_alone(model: CPUBackend) -> None:
    caches = [model.new_cache(40) for _ in range(3)]
    prompts = [np.arange(first, first + 30, dtype=np.int32) for first in (0, 50, 100)]
    chunks = [TokenChunk(prompt, cache) for prompt, cache in zip(prompts, caches, strict=True)]
    last = all_logits(model.forward(chunks))
    for _ in range(10):
        tokens = last.argmax(axis=1).astype(np.int32)
        prompts = [np.append(prompt, token) for prompt, token in zip(prompts, tokens, strict=True)]
        last = all_logits(model.forward([TokenChunk(tokens[i : i + 1], cache) for i, cache in enumerate(caches)]))
    for prompt, row in zip(prompts, last, strict=True):
        assert (logits_of(model, prompt)[-1] == row).all()


def all_logits(rows_of_chunks: list[list[Candidates]]) -> npt.NDArray[np.float32]:
    """Return the logits of a step in one array; none may have been left out."""
    rows = list(itertools.chain.from_iterable(rows_of_chunks))
    assert all(row.ids is None and not row.is_partial for row in rows)
    return np.array([row.logits for row in rows], np.float32).reshape(len(rows), -1 if rows else 270)


@pytest.mark.parametrize("n_sequences", [3, 16, 17, 40])
@pytest.mark.parametrize("head", HEAD_MODES)
def test_every_head_gives_a_sequence_the_same_in_any_batch(head: HeadMode, n_sequences: int, tmp_path: Path) -> None:
    model = cpu_backend(toy_file(tmp_path, "bitnet-b1.58")[1], head=head)
    tokens = np.arange(3, dtype=np.int32)
    chunks = [
        TokenChunk(tokens + first, model.new_cache(3), 1, CandidateQuery(n_best=1)) for first in range(n_sequences)
    ]
    for chunk, [together] in zip(chunks, model.forward(chunks), strict=True):
        [[alone]] = model.forward([chunk._replace(cache=model.new_cache(3))])
        assert highest(together) == highest(alone)
        if head == "full":
            assert (together.logits == alone.logits).all()


def highest(row: Candidates) -> tuple[int, float]:
    index = int(row.logits.argmax())
    return index if row.ids is None else int(row.ids[index]), float(row.logits[index])


@pytest.mark.parametrize("head", HEAD_MODES)
def test_who_asks_for_all_logits_changes_nobody_elses(head: HeadMode, tmp_path: Path) -> None:
    model = cpu_backend(toy_file(tmp_path, "bitnet-b1.58")[1], head=head)
    queries = [None, CandidateQuery(n_best=1), None, CandidateQuery(), CandidateQuery(n_best=3)]
    texts = [np.arange(first, first + 3, dtype=np.int32) for first in range(len(queries))]
    counts = [1, 1, 3, 2, 0]
    caches = [model.new_cache(4) for _ in queries]
    chunks = [TokenChunk(*chunk) for chunk in zip(texts, caches, counts, queries, strict=True)]
    together = model.forward(chunks)
    assert [len(rows) for rows in together] == counts
    for chunk, rows in zip(chunks, together, strict=True):
        [alone] = model.forward([chunk._replace(cache=model.new_cache(4))])
        assert [highest(row) for row in rows] == [highest(row) for row in alone]
    assert [cache.length for cache in caches] == [3] * len(caches)


def test_a_step_that_raises_changes_no_cache(model: CPUBackend) -> None:
    caches = [model.new_cache(LENGTH) for _ in range(2)]
    read(model, np.arange(5), caches[0], 0)
    bad_query = CandidateQuery(n_best=1, always=np.zeros(7, np.uint8))  # found only after the tokens were checked
    chunks = [TokenChunk(np.zeros(3, np.int32), cache, 1, bad_query) for cache in caches]
    with pytest.raises(ValueError, match="broadcast"):
        model.forward(chunks)
    assert [cache.length for cache in caches] == [5, 0]


def test_pages_are_those_of_the_protocol() -> None:
    assert POSITIONS_PER_BLOCK == PAGE_POSITIONS
    assert (MAX_PREFILL_CHUNK, MAX_STEP_TOKENS) == (POSITIONS_PER_BLOCK, 2 * POSITIONS_PER_BLOCK)


def test_steps_of_several_python_threads_take_turns(model: CPUBackend) -> None:
    texts = [np.arange(first, first + 20, dtype=np.int32) for first in range(0, 80, 20)]
    expected = [logits_of(model, text) for text in texts]
    with ThreadPoolExecutor(len(texts)) as pool:
        found = list(pool.map(lambda text: logits_of(model, text, chunk_size=1), texts))
    np.testing.assert_array_equal(found, expected)


def test_refuses_batches(model: CPUBackend) -> None:
    cache, token = model.new_cache(LENGTH), np.zeros(1, np.int32)
    with pytest.raises(ParameterError, match=r"^batch: 0 tokens in one step, expected 1 to 512$"):
        model.forward([])
    with pytest.raises(ParameterError, match=r"^batch: 513 tokens in one step"):
        model.forward([TokenChunk(np.zeros(513, np.int32), cache)])
    with pytest.raises(ParameterError, match=r"^batch: two chunks of one cache"):
        model.forward([TokenChunk(token, cache), TokenChunk(token, cache)])
    with pytest.raises(ParameterError, match=r"^batch: 2 logits of 1 tokens asked for$"):
        model.forward([TokenChunk(token, cache, 2)])
    with pytest.raises(ResourceError, match=r"^11 positions needed, the cache holds 10: "):
        model.forward([TokenChunk(token, cache), TokenChunk(np.zeros(11, np.int32), model.new_cache(10))])
    assert cache.length == 0


@pytest.mark.parametrize("length", [0, 100, 256, 300, 512, 513])
def test_forks_go_their_own_ways(model: CPUBackend, length: int) -> None:
    """Three that share the same beginning and go on differently, in turns, as if each were alone."""
    rng = np.random.default_rng(length)
    beginning = rng.integers(0, 270, 513, dtype=np.int32)
    endings = rng.integers(0, 270, (3, LENGTH - 513), dtype=np.int32)
    first = model.new_cache(LENGTH)
    read(model, beginning, first, 0)
    second = first.fork(length=length)
    third = second.fork()
    first.truncate(length)
    texts = [np.append(beginning[:length], ending) for ending in endings]
    expected = [logits_of(model, text)[length:] for text in texts]
    for part in range(0, endings.shape[1], 8):
        for cache, ending, rows in zip((first, second, third), endings, expected, strict=True):
            assert (read(model, ending[part : part + 8], cache) == rows[part : part + 8]).all()


def test_a_shared_page_is_never_written(model: CPUBackend) -> None:
    """Cut back into a shared page, a cache writes to one of its own."""
    text = np.arange(300, dtype=np.int32) % 270
    first = model.new_cache(400)
    read(model, text, first, 0)
    second = first.fork()
    first.truncate(10)
    read(model, text[::-1], first, 0)
    assert (read(model, text[:5], second) == logits_of(model, np.append(text, text[:5]))[300:]).all()


def test_a_fork_shares_whole_pages(model: CPUBackend) -> None:
    first = model.new_cache(LENGTH)
    read(model, np.zeros(300, np.int32), first, 0)
    second = first.fork(400)
    assert second.capacity == 400
    assert second.length == 300
    assert second.addresses[0, 0] == first.addresses[0, 0]
    assert second.addresses[0, 1] != first.addresses[0, 1]


def test_goes_on_after_a_cut(model: CPUBackend) -> None:
    tokens = np.arange(50, dtype=np.int32)
    cache = model.new_cache(50)
    read(model, tokens[::-1], cache, 0)
    cache.truncate(0)
    read(model, tokens[:30], cache, 0)
    read(model, tokens[:10], cache, 0)
    cache.truncate(30)
    assert (read(model, tokens[30:], cache) == logits_of(model, tokens)[30:]).all()


def test_fills_a_cache_to_its_last_position(model: CPUBackend) -> None:
    tokens = np.arange(LENGTH, dtype=np.int32) % 270
    cache = model.new_cache(LENGTH)
    read(model, tokens, cache, 0)
    assert cache.length == LENGTH
    with pytest.raises(ResourceError, match=r"^531 positions needed, the cache holds 530: "):
        read(model, tokens[:1], cache)
    assert cache.length == LENGTH


@pytest.mark.parametrize("tokens", [[270], [-1], [0, 1, 2**31 - 1], [2**32], [-(2**40)], [2**64]])
def test_refuses_tokens_that_are_not_in_the_vocabulary(model: CPUBackend, tokens: list[int]) -> None:
    with pytest.raises(ParameterError, match=r"^tokens: expected whole numbers from 0 to 269$"):
        model.forward([TokenChunk(np.array(tokens), model.new_cache(10))])


@pytest.mark.parametrize("tokens", [np.zeros(0, np.int32), np.zeros((1, 2), np.int32), np.array(5), np.zeros(2)])
def test_refuses_what_is_no_list_of_tokens(model: CPUBackend, tokens: npt.NDArray[np.int32]) -> None:
    with pytest.raises(ParameterError, match=r"^tokens: expected "):
        model.forward([TokenChunk(tokens, model.new_cache(10))])


def test_refuses_more_positions_than_there_are(model: CPUBackend) -> None:
    with pytest.raises(ResourceError, match=r"^531 positions asked for, the context holds 530: "):
        model.new_cache(LENGTH + 1)
    with pytest.raises(ResourceError, match=r"^11 positions needed, the cache holds 10: "):
        read(model, np.zeros(11, np.int32), model.new_cache(10))


def test_counts_the_kernels_that_run(model: CPUBackend) -> None:
    assert not model.counts().any()
    cache = model.new_cache(80)
    read(model, np.zeros(70, np.int32), cache, 1)  # two steps of many tokens
    read(model, np.zeros(1, np.int32), cache)
    counts = counted(model.counts())
    products = {name: sum(count for key, count in counts.items() if key.startswith(name)) for name in PRODUCTS}
    assert products == {"i2s_gemm_": 2 * 2 * 4, "i2s_gemv_": 2 * 4}  # steps, layers, matrices
    assert counts["quantize_absmax_int8"] == 3 * 2 * 4
    assert counts["rmsnorm_forward"] == 3 * 2 * 4 + 2  # logits of the first 64 tokens are not asked for
    assert counts["attention_forward"] == counts["rope_forward"] == counts["attention_kv_cache_update"] == 3 * 2
    assert counts["ffn_relu2_forward"] == 3 * 2
    assert counts["embedding_lookup"] == 3
    assert counts["f16_head_gemv"] == 2
    assert "ffn_silu_forward" not in counts


def test_memory_is_counted_by_role(model: CPUBackend) -> None:
    memory = model.memory(prefix_pages=4)
    assert memory["scratch"] > 64 * 270
    assert memory["cached_prefixes_at_most"] == 4 * sum(page.nbytes for page in model.new_cache(1).pages)
    assert memory["kv_cache_of_full_context"] == sum(page.nbytes for page in model.new_cache(LENGTH).pages)
    parts = "ternary_weights", "embedding", "head", "head_int8_copy", "norms_scales_and_rope", "scratch"
    caches = "kv_cache_of_full_context", "cached_prefixes_at_most"
    assert memory["total"] == sum(memory[part] for part in (*parts, *caches))


def test_softmax_and_exp(model: CPUBackend) -> None:
    x = np.array([-3.5, -70.0, -1e-3, -64.5], np.float32)
    counts = np.zeros(len(model.kernel_names), np.int64)
    exponentials, shares = model.exp(x, counts), model.softmax(x, counts)
    assert x[0] == -3.5
    assert exponentials[1] == exponentials[3] == 0
    np.testing.assert_allclose(exponentials, np.exp(x), rtol=3e-7, atol=1e-28)
    np.testing.assert_allclose(shares, np.exp(x) / np.exp(x).sum(), rtol=1e-6, atol=1e-28)
    assert counted(counts) == {"softmax_forward": 2}


def test_ends(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    model = cpu_backend(toy_file(tmp_path, "bitnet-b1.58")[1])
    logits_of(model, np.arange(3, dtype=np.int32))
    assert len(set(threading.enumerate()) - before) == model.threads
    model.close()
    assert set(threading.enumerate()) <= before


def test_a_model_that_is_dropped_gives_its_memory_back(tmp_path: Path) -> None:
    model = cpu_backend(toy_file(tmp_path, "bitnet-b1.58")[1])
    logits_of(model, np.arange(3, dtype=np.int32))
    weights = weakref.ref(model.weights.qkv)
    del model
    gc.collect()
    wait_until(lambda: weights() is None)  # its threads have left the last step for good


def test_refuses_the_cache_of_a_model_of_other_sizes(model: CPUBackend) -> None:
    config = model.config
    for other in (
        KVCache(config.n_layers, 2 * config.n_kv_heads, model.sizes.head_dim, 8, "f16"),
        KVCache(config.n_layers, config.n_kv_heads, model.sizes.head_dim, 8, "f32"),
    ):
        with pytest.raises(ParameterError, match="cache: made for a model of other sizes"):
            read(model, np.zeros(1, np.int32), other)


def test_nothing_is_compiled_after_loading(model: CPUBackend) -> None:
    """Each kind of step runs the kernels that loading has compiled, so none of them waits for the compiler."""
    before = compiled.kernels
    ids = np.arange(20, dtype=np.int32)
    for query in (None, CandidateQuery(n_best=1), CandidateQuery(n_best=0, margin=1.0, temperature=0.5)):
        for n_tokens in (1, 2, 20):
            cache = model.new_cache(64)
            model.forward([TokenChunk(ids[:n_tokens], cache, 1, query)])
            model.forward([TokenChunk(ids[:1], cache, 1, query), TokenChunk(ids[:3], model.new_cache(8), 3, query)])
    assert compiled.kernels == before
