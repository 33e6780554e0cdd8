"""One sequence through the model: the same bits in any chunks and on any number of threads; what it refuses."""

import gc
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.cpu.backend import Transformer
from bitnet_numba.backends.cpu.batch import TokenChunk
from bitnet_numba.backends.cpu.candidates import HeadType, NeededLogits, Screening
from bitnet_numba.backends.cpu.kernels.jit import counted, is_warm
from bitnet_numba.backends.cpu.kv_cache import KVCache, KVType
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.formats.gguf import TensorType
from tests.generate.running import logits_of, transformer
from tests.tiny import ToyModel, toy_model

FAMILIES = ("bitnet-b1.58", "bitnet", "llama")
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
def model(tmp_path: Path) -> Transformer:
    return transformer(toy_file(tmp_path, "bitnet-b1.58")[1])


def single_steps(model: Transformer, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    cache = model.new_cache(tokens.size)
    return np.concatenate([model.forward(tokens[i : i + 1], cache) for i in range(tokens.size)])


@pytest.mark.parametrize("kv_type", ["f16", "f32", "int8"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_same_bits_in_any_chunks_on_any_threads(architecture: str, kv_type: KVType, tmp_path: Path) -> None:
    toy, path = toy_file(tmp_path, architecture, kv_type)
    tokens = toy.tokens(LENGTH)
    one = transformer(path, kv_type=kv_type, threads=1)
    expected = logits_of(one, tokens)
    reference = toy.reference().logits(tokens, kv_type)
    assert np.corrcoef(expected.reshape(-1), reference.reshape(-1))[0, 1] >= 0.9995
    assert (logits_of(one, tokens, chunk_size=7) == expected).all()
    assert (single_steps(one, tokens) == expected).all()
    for threads in (2, 3):
        several = transformer(path, kv_type=kv_type, threads=threads)
        assert (logits_of(several, tokens) == expected).all()
        assert (logits_of(several, tokens, chunk_size=1)[-40:] == expected[-40:]).all()
        assert (logits_of(several, tokens[:40], chunk_size=7) == expected[:40]).all()


@pytest.mark.parametrize("last_chunk", [1, 5])
def test_returns_the_logits_that_are_asked_for(model: Transformer, last_chunk: int) -> None:
    tokens = np.arange(64 + last_chunk, dtype=np.int32)
    everything = logits_of(model, tokens)
    cache = model.new_cache(tokens.size + 1)
    assert everything.shape == (tokens.size, 270)
    assert model.forward(tokens[:9], cache, "none").shape == (0, 270)
    assert (model.forward(tokens[9:], cache, "last") == everything[-1:]).all()
    assert cache.length == tokens.size


def test_sequences_do_not_disturb_each_other(model: Transformer) -> None:
    first, second = np.arange(20, dtype=np.int32), np.arange(100, 120, dtype=np.int32)
    expected = logits_of(model, first)
    caches = model.new_cache(20), model.new_cache(20)
    for part in range(0, 20, 5):
        rows = model.forward(first[part : part + 5], caches[0], "all")
        model.forward(second[part : part + 5], caches[1], "none")
        assert (rows == expected[part : part + 5]).all()


@pytest.mark.parametrize("others", [1, 3, 16])
def test_a_batch_changes_no_bit_of_a_sequence(model: Transformer, others: int) -> None:
    """Sequences of other lengths, read in pieces of other sizes, in the same steps."""
    rng = np.random.default_rng(others)
    texts = [rng.integers(0, 270, size, dtype=np.int32) for size in rng.integers(20, LENGTH, others + 1)]
    alone = [logits_of(model, text) for text in texts]
    caches = [model.new_cache(text.size) for text in texts]
    while any(cache.length < text.size for cache, text in zip(caches, texts, strict=True)):
        pieces, expected = [], []
        for number, (cache, text) in enumerate(zip(caches, texts, strict=True)):
            unread = text[cache.length :][: (1, 7, 30)[number % 3]]
            n_logits = min(unread.size, number % 4)
            if unread.size:
                pieces.append(TokenChunk(unread, cache, n_logits))
                end = cache.length + unread.size
                expected.append(alone[number][end - n_logits : end])
        assert (model.forward_batch(pieces)[0] == np.concatenate(expected)).all()


def test_a_batch_of_single_tokens_continues_as_each_alone(model: Transformer) -> None:
    caches = [model.new_cache(40) for _ in range(3)]
    prompts = [np.arange(first, first + 30, dtype=np.int32) for first in (0, 50, 100)]
    last, _ = model.forward_batch([TokenChunk(prompt, cache) for prompt, cache in zip(prompts, caches, strict=True)])
    for _ in range(10):
        tokens = last.argmax(axis=1).astype(np.int32)
        prompts = [np.append(prompt, token) for prompt, token in zip(prompts, tokens, strict=True)]
        last, _ = model.forward_batch([TokenChunk(tokens[i : i + 1], cache) for i, cache in enumerate(caches)])
    for prompt, row in zip(prompts, last, strict=True):
        assert (logits_of(model, prompt)[-1] == row).all()


@pytest.mark.parametrize("n_sequences", [3, 16, 17, 40])
@pytest.mark.parametrize("head", ["exact", "f16", "int8"])
def test_every_head_gives_a_sequence_the_same_in_any_batch(head: HeadType, n_sequences: int, tmp_path: Path) -> None:
    model = transformer(toy_file(tmp_path, "bitnet-b1.58")[1], head=head)
    tokens = np.arange(3, dtype=np.int32)
    pieces = [TokenChunk(tokens + place, model.new_cache(3), 1, NeededLogits(n_best=1)) for place in range(n_sequences)]
    together, screenings = model.forward_batch(pieces)
    for place in range(n_sequences):
        [alone], [screening] = model.forward_batch([pieces[place]._replace(cache=model.new_cache(3))])
        assert highest(together[place], screenings[place]) == highest(alone, screening)
        if head != "exact":  # which leaves out what cannot be the highest
            assert (together[place] == alone).all()


def highest(row: npt.NDArray[np.float32], screening: Screening) -> tuple[int, float]:
    place = int(row.argmax())
    return place if screening.known is None else int(screening.known[place]), float(row[place])


@pytest.mark.parametrize("head", ["exact", "f16", "int8"])
def test_who_asks_for_all_logits_exactly_changes_nobody_elses(head: HeadType, tmp_path: Path) -> None:
    model = transformer(toy_file(tmp_path, "bitnet-b1.58")[1], head=head)
    needs = [None, NeededLogits(n_best=1), None, NeededLogits(), NeededLogits(n_best=3)]
    texts = [np.arange(place, place + 3, dtype=np.int32) for place in range(len(needs))]
    counts = [1, 1, 3, 2, 0]
    caches = [model.new_cache(4) for _ in needs]
    pieces = [TokenChunk(*piece) for piece in zip(texts, caches, counts, needs, strict=True)]
    together, screenings = model.forward_batch(pieces)
    alone = [model.forward_batch([piece._replace(cache=model.new_cache(4))]) for piece in pieces if piece.n_logits]
    rows = [(row, screening) for of_one in alone for row, screening in zip(*of_one, strict=True)]
    for row, screening, of_one in zip(together, screenings, rows, strict=True):
        assert highest(row, screening) == highest(*of_one)
    if head == "int8":
        np.testing.assert_array_equal(together, [row for row, _ in rows])
        [rough], _ = model.forward_batch([TokenChunk(texts[0], model.new_cache(3), 1, NeededLogits())])
        assert (together[0] != rough).any()
    assert len(screenings) == 7
    assert [cache.length for cache in caches] == [3] * len(caches)


def test_refuses_batches(model: Transformer) -> None:
    cache, token = model.new_cache(LENGTH), np.zeros(1, np.int32)
    with pytest.raises(ParameterError, match=r"^batch: 0 tokens in one step, expected 1 to 512$"):
        model.forward_batch([])
    with pytest.raises(ParameterError, match=r"^batch: 513 tokens in one step"):
        model.forward_batch([TokenChunk(np.zeros(513, np.int32), cache)])
    with pytest.raises(ParameterError, match=r"^batch: two pieces of one cache"):
        model.forward_batch([TokenChunk(token, cache), TokenChunk(token, cache)])
    with pytest.raises(ParameterError, match=r"^batch: 2 logits of 1 tokens asked for$"):
        model.forward_batch([TokenChunk(token, cache, 2)])
    with pytest.raises(ResourceError, match=r"^11 positions needed, the cache holds 10: "):
        model.forward_batch([TokenChunk(token, cache), TokenChunk(np.zeros(11, np.int32), model.new_cache(10))])
    assert cache.length == 0


@pytest.mark.parametrize("length", [0, 100, 256, 300, 512, 513])
def test_forks_go_their_own_ways(model: Transformer, length: int) -> None:
    """Three that share the same beginning and go on differently, in turns, as if each were alone."""
    rng = np.random.default_rng(length)
    beginning = rng.integers(0, 270, 513, dtype=np.int32)
    endings = rng.integers(0, 270, (3, LENGTH - 513), dtype=np.int32)
    first = model.new_cache(LENGTH)
    model.forward(beginning, first, "none")
    second = first.fork(length=length)
    third = second.fork()
    first.truncate(length)
    texts = [np.append(beginning[:length], ending) for ending in endings]
    expected = [logits_of(model, text)[length:] for text in texts]
    for part in range(0, endings.shape[1], 8):
        for cache, ending, rows in zip((first, second, third), endings, expected, strict=True):
            assert (model.forward(ending[part : part + 8], cache, "all") == rows[part : part + 8]).all()


def test_a_shared_page_is_never_written(model: Transformer) -> None:
    """Cut back into a shared page, a cache writes to one of its own."""
    text = np.arange(300, dtype=np.int32) % 270
    first = model.new_cache(400)
    model.forward(text, first, "none")
    second = first.fork()
    first.truncate(10)
    model.forward(text[::-1], first, "none")
    assert (model.forward(text[:5], second, "all") == logits_of(model, np.append(text, text[:5]))[300:]).all()


def test_a_fork_shares_whole_pages(model: Transformer) -> None:
    first = model.new_cache(LENGTH)
    model.forward(np.zeros(300, np.int32), first, "none")
    second = first.fork(400)
    assert second.capacity == 400
    assert second.length == 300
    assert second.addresses[0, 0] == first.addresses[0, 0]
    assert second.addresses[0, 1] != first.addresses[0, 1]


def test_goes_on_after_a_cut(model: Transformer) -> None:
    tokens = np.arange(50, dtype=np.int32)
    cache = model.new_cache(50)
    model.forward(tokens[::-1], cache, "none")
    cache.truncate(0)
    model.forward(tokens[:30], cache, "none")
    model.forward(tokens[:10], cache, "none")
    cache.truncate(30)
    assert (model.forward(tokens[30:], cache, "all") == logits_of(model, tokens)[30:]).all()


def test_fills_a_cache_to_its_last_position(model: Transformer) -> None:
    tokens = np.arange(LENGTH, dtype=np.int32) % 270
    cache = model.new_cache(LENGTH)
    model.forward(tokens, cache, "none")
    assert cache.length == LENGTH
    with pytest.raises(ResourceError, match=r"^531 positions needed, the cache holds 530: "):
        model.forward(tokens[:1], cache)
    assert cache.length == LENGTH


@pytest.mark.parametrize("tokens", [[270], [-1], [0, 1, 2**31 - 1], [2**32], [-(2**40)], [2**64]])
def test_refuses_tokens_that_are_not_in_the_vocabulary(model: Transformer, tokens: list[int]) -> None:
    with pytest.raises(ParameterError, match=r"^tokens: expected whole numbers from 0 to 269$"):
        model.forward(np.array(tokens), model.new_cache(10))


@pytest.mark.parametrize("tokens", [np.zeros(0, np.int32), np.zeros((1, 2), np.int32), np.array(5), np.zeros(2)])
def test_refuses_what_is_no_list_of_tokens(model: Transformer, tokens: npt.NDArray[np.int32]) -> None:
    with pytest.raises(ParameterError, match=r"^tokens: expected "):
        model.forward(tokens, model.new_cache(10))


@pytest.mark.parametrize("chunk_size", [0, -1, 513])
def test_refuses_chunk_sizes(model: Transformer, chunk_size: int) -> None:
    with pytest.raises(ParameterError, match=f"^chunk_size is {chunk_size}, expected 1 to 512$"):
        model.forward(np.zeros(1, np.int32), model.new_cache(10), chunk_size=chunk_size)


def test_refuses_more_positions_than_there_are(model: Transformer) -> None:
    with pytest.raises(ResourceError, match=r"^531 positions asked for, the context holds 530: "):
        model.new_cache(LENGTH + 1)
    with pytest.raises(ResourceError, match=r"^11 positions needed, the cache holds 10: "):
        model.forward(np.zeros(11, np.int32), model.new_cache(10))


def test_counts_the_kernels_that_run(model: Transformer) -> None:
    assert not model.kernel_counts().any()
    cache = model.new_cache(80)
    model.forward(np.zeros(70, np.int32), cache, chunk_size=64)  # two steps of many tokens
    model.forward(np.zeros(1, np.int32), cache)
    counts = counted(model.kernel_counts())
    assert counts[f"i2s_gemm_{model.isa}"] == 2 * 2 * 4  # steps, layers, matrices
    assert counts[f"i2s_gemv_{model.isa}"] == 2 * 4
    assert counts["quantize_absmax_int8"] == 3 * 2 * 4
    assert counts["rmsnorm_forward"] == 3 * 2 * 4 + 2  # logits of the first 64 tokens are not asked for
    assert counts["attention_forward"] == counts["rope_forward"] == counts["attention_kv_cache_update"] == 3 * 2
    assert counts["ffn_relu2_forward"] == 3 * 2
    assert counts["embedding_lookup"] == 3
    assert counts["f16_head_gemv"] == 2
    assert "ffn_silu_forward" not in counts


def test_state_is_counted(model: Transformer) -> None:
    assert model.state_bytes > 64 * 270


def test_ends(model: Transformer) -> None:
    model.close()
    assert model._team._threads == []


def test_a_model_that_is_dropped_gives_its_memory_back(tmp_path: Path) -> None:
    model = transformer(toy_file(tmp_path, "bitnet-b1.58")[1])
    logits_of(model, np.arange(3, dtype=np.int32))
    weights, pool = weakref.ref(model.weights.qkv), model._team
    del model
    gc.collect()
    pool.close()  # its threads have left the last step for good
    assert weights() is None


def test_refuses_the_cache_of_a_model_of_other_sizes(model: Transformer) -> None:
    config = model.config
    for other in (
        KVCache(config.n_layers, 2 * config.n_kv_heads, model.layout.head_dim, 8, "f16"),
        KVCache(config.n_layers, config.n_kv_heads, model.layout.head_dim, 8, "f32"),
    ):
        with pytest.raises(ParameterError, match="cache: made for a model of other sizes"):
            model.forward(np.zeros(1, np.int32), other)


def test_compiled_kernels_are_found_warm(model: Transformer) -> None:
    model.forward(np.zeros(1, np.int32), model.new_cache(1))
    assert is_warm()
