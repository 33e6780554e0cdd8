"""The public names, and a model as Python programs use it, on a backend of a few lines."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba import LanguageModel
from bitnet_numba.backends.protocol import Candidates, TokenChunk
from bitnet_numba.errors import BitNetError, ParameterError, ResourceError
from bitnet_numba.generate.engine import Engine
from bitnet_numba.options import SamplingArguments
from tests.fakes import (
    BOS,
    CONTEXT,
    TURN_END,
    VOCAB_SIZE,
    ByteTokenizer,
    FakeBackend,
    fake_model,
    model_that_says,
    random_logits,
)


def in_a_new_process(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


# ---- the package -----------------------------------------------------------------------------------------------------
def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'numba', 'llvmlite', 'tokenizers', 'jinja2', 'importlib.metadata'}"
    program = f"import sys, bitnet_numba; dir(bitnet_numba); print(sorted({heavy} & set(sys.modules)))"
    assert in_a_new_process(program) == "[]"


def test_checking_sampling_parameters_needs_no_numba() -> None:
    program = (
        "import sys; from bitnet_numba import SamplingParams, BitNetError; SamplingParams();"
        "print(sorted({'numpy', 'numba'} & set(sys.modules)))"
    )
    assert in_a_new_process(program) == "[]"


def test_public_names_are_there_and_stay_the_same() -> None:
    assert set(bitnet_numba.__all__) <= set(dir(bitnet_numba))
    for name in bitnet_numba.__all__:
        assert getattr(bitnet_numba, name) is getattr(bitnet_numba, name)
    assert bitnet_numba.BitNetError is BitNetError
    assert bitnet_numba.__version__.count(".") == 2


def test_other_names_are_refused() -> None:
    misspelled = "laod"
    with pytest.raises(AttributeError, match="module 'bitnet_numba' has no attribute 'laod'"):
        getattr(bitnet_numba, misspelled)


# ---- generation ------------------------------------------------------------------------------------------------------
def test_generates_from_text_and_from_ids() -> None:
    model = model_that_says("hello", prompt_tokens=3)
    result = model.generate("ab")
    assert (result.text, result.prompt_tokens, result.finish_reason, result.load_ms) == ("hello", 3, "stop_token", 12.5)
    for ids in ([BOS, 97, 98], (BOS, 97, 98), np.array([BOS, 97, 98], np.uint16)):
        assert model.generate(ids).text == "hello"


def test_special_tokens_in_a_prompt_are_plain_text() -> None:
    model = model_that_says("x", prompt_tokens=6)
    assert model.generate("<end>").prompt_tokens == 6
    assert model.tokenize("<end>", add_bos=False) == list(b"<end>")
    assert model.tokenize("a<end>", parse_special=True) == [BOS, 97, TURN_END]


def test_a_stream_ends_with_the_result() -> None:
    model = model_that_says("hello")
    *before, last = model.stream("ab", stop="lo")
    assert "".join(chunk.text for chunk in before) + last.text == "hel"
    assert [chunk.result for chunk in before] == [None] * len(before)
    assert last.result is not None
    assert (last.result.text, last.result.finish_reason) == ("hel", "stop_string")


def test_chat_writes_the_messages_first() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ids = [BOS, *b"system:Be brief.\nuser:Hi\n"]
    model = model_that_says("Hello.", prompt_tokens=len(ids))
    assert model.chat_ids(messages) == ids
    assert model.chat(messages).text == "Hello."
    assert "".join(chunk.text for chunk in model.stream_chat(messages, max_tokens=4)) == "Hell"


def test_the_same_seed_gives_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake_model(FakeBackend(random_logits))
    asked = {"temperature": 1.5, "max_tokens": 20}
    first, second, other = (model.generate("ab", **asked, seed=seed).token_ids for seed in (7, 7, 8))
    assert first == second != other
    assert model.generate("ab", **asked).token_ids != model.generate("ab", **asked).token_ids
    monkeypatch.setenv("BITNET_SEED", "7")
    assert model.generate("ab", **asked).token_ids == first
    assert model.generate("ab", **asked, seed=8).token_ids == other


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        (np.zeros(0, np.int32), "the prompt is empty"),
        ([5, -1], "token 1 is -1: expected an id from 0 to 259"),
        ([VOCAB_SIZE], "token 0 is 260: expected an id"),
        ([2**70], "token 0 is 1180591620717411303424: expected an id"),
        ([1, 2.0], "token 1 is of type float"),
        ([True], "token 0 is of type bool"),
        ([1, "a"], "token 1 is of type str"),
        (np.zeros((2, 2), np.int32), "token 0 is of type ndarray"),
        (np.zeros(2), "token 0 is of type float64"),
        (b"abc", "expected token ids, got bytes"),
        (None, "expected token ids, got NoneType"),
        ({1, 2}, "expected token ids, got set"),
    ],
)
def test_refuses_bad_prompts_at_once(prompt: Any, message: str) -> None:
    model = model_that_says("x")
    for refused in (model.generate, model.stream):
        with pytest.raises(ParameterError, match=message) as refusal:
            refused(prompt)
        assert "\n" not in str(refusal.value)


def test_refuses_what_does_not_fit_at_once() -> None:
    model = model_that_says("x", max_context=20)
    with pytest.raises(ResourceError) as refusal:
        model.stream("a" * 20)
    told = "the prompt has 21 tokens, the context holds 20: shorten it or raise max_context, up to 64"
    assert str(refusal.value) == told
    with pytest.raises(ResourceError, match="65 tokens, the context holds 64"):
        model_that_says("x").logits([1] * (CONTEXT + 1))


def test_refuses_bad_sampling_before_any_work() -> None:
    backend = FakeBackend(random_logits)
    model = fake_model(backend)
    for bad in ({"top_p": 2}, {"logit_bias": {VOCAB_SIZE: 1.0}}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            model.stream("ab", **bad)
    assert backend.caches == []


@pytest.mark.parametrize("messages", [[], (), "Hi", None, 5])
def test_refuses_what_is_no_conversation(messages: Any) -> None:
    for refused in (model_that_says("x").chat, model_that_says("x").stream_chat):
        with pytest.raises(ParameterError, match="messages: expected a list of at least one"):
            refused(messages)


def test_refuses_a_conversation_that_becomes_nothing() -> None:
    model = LanguageModel(Engine(FakeBackend(random_logits)), ByteTokenizer(), lambda _: [])
    with pytest.raises(ParameterError, match="makes no tokens"):
        model.chat([{"role": "user", "content": ""}])


# ---- logits and text -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 7, 8])
def test_logits_do_not_depend_on_the_chunk_size(chunk_size: int | None) -> None:
    backend = FakeBackend(random_logits)
    ids = [5, 250, 0, 3, 3, 17, 99]
    logits = fake_model(backend).logits(ids, chunk_size)
    assert (logits.dtype, logits.shape) == (np.float32, (7, VOCAB_SIZE))
    np.testing.assert_array_equal(logits, [random_logits(ids[: i + 1]) for i in range(7)])
    assert backend.counts().sum() == -(-7 // (chunk_size or 7))
    assert [cache.capacity for cache in backend.caches] == [7]


@pytest.mark.parametrize("chunk_size", [0, -1, 1.5, True, "2"])
def test_refuses_bad_chunk_sizes(chunk_size: Any) -> None:
    with pytest.raises(ParameterError, match="chunk_size"):
        model_that_says("x").logits([1, 2], chunk_size)


def test_no_memory_for_logits_is_told_with_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend(random_logits)

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(backend, "forward", no_memory)
    with pytest.raises(ResourceError, match="no memory for 2 x 260 logits"):
        fake_model(backend).logits([1, 2])


def test_detokenizes_what_it_tokenizes() -> None:
    model = model_that_says("x")
    assert model.detokenize(model.tokenize("héllo")) == "héllo"
    assert model.detokenize([]) == ""
    with pytest.raises(ParameterError, match="token 0 is 260"):
        model.detokenize([VOCAB_SIZE])


def test_tells_about_itself() -> None:
    model = model_that_says("x", max_context=33, notes=["a note"], info={"memory": {"weights": 5}})
    assert (model.max_context, model.threads, model.isa, model.notes) == (33, 2, "fake", ("a note",))
    assert model.config.vocab_size == VOCAB_SIZE
    assert model.info() == {"memory": {"weights": 5}}


# ---- life and threads ------------------------------------------------------------------------------------------------
def test_a_with_statement_closes_the_model() -> None:
    backend = FakeBackend(random_logits)
    with fake_model(backend) as model:
        assert backend.closed == 0
    assert backend.closed == 1
    with pytest.raises(BitNetError, match="the model was closed"):
        model.generate("ab")


class CarefulBackend(FakeBackend):
    """Counts how many Python threads are inside at once."""

    inside = 0
    most = 0

    def forward(self, chunks: Sequence[TokenChunk[Any]]) -> list[list[Candidates]]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.001)
        result = super().forward(chunks)
        self.inside -= 1
        return result


def test_python_threads_share_one_model() -> None:
    prompts = ["ab", "cd", "efg"]
    alone = {prompt: fake_model(FakeBackend(random_logits)).generate(prompt, max_tokens=12) for prompt in prompts}
    backend = CarefulBackend(random_logits)
    model = fake_model(backend)
    results: dict[str, Any] = {}

    def work(prompt: str) -> None:
        results[prompt] = model.generate(prompt, max_tokens=12)

    workers = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert backend.most == 1
    for prompt in prompts:
        assert results[prompt].token_ids == alone[prompt].token_ids
        # a step of several is one of many tokens, whoever's they are
        assert sum(results[prompt].kernels.values()) == sum(alone[prompt].kernels.values())


# ---- the embedded model ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def story_teller() -> Iterator[LanguageModel]:
    with bitnet_numba.load("demo", threads=2) as model:
        yield model


def test_tells_a_story(story_teller: LanguageModel) -> None:
    result = story_teller.generate("Once upon a time", max_tokens=24)
    assert (
        result.text == ", there was a little girl named Lily. She loved to play outside in the sun. One day, she saw a"
    )
    assert story_teller.detokenize(result.token_ids) == result.text
    assert result.kernels["embedding_lookup"] == 24
    gemv = "avx512_vnni" if result.isa == "amx_int8" else result.isa  # tiles need several tokens
    assert result.kernels[f"i2s_gemv_{gemv}"] == 4 * 6 * 23  # of the prompt's step it is the gemm


def test_a_seed_tells_the_same_story_on_every_cpu(story_teller: LanguageModel) -> None:
    asked: SamplingArguments = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 24}
    drawn = story_teller.generate("Once upon a time", **asked, seed=3)
    assert drawn.text == GOLDEN_STORY
    assert story_teller.generate("Once upon a time", **asked, seed=4).text != GOLDEN_STORY


GOLDEN_STORY = ", in a small town, there was a mysterious cop named Tim. He had a big box of colors. Tim lived"


def test_single_steps_give_the_bits_of_one_step(demo: LanguageModel) -> None:
    ids = demo.tokenize("The cat sat on the mat and looked at the moon.")
    at_once = demo.logits(ids)
    assert at_once.shape == (len(ids), demo.config.vocab_size)
    for chunk_size in (1, 5):
        np.testing.assert_array_equal(demo.logits(ids, chunk_size), at_once)


def test_two_stories_side_by_side_are_the_stories_alone(demo: LanguageModel) -> None:
    prompts = ("Once upon a time", "The big dog")
    alone = [demo.generate(prompt, max_tokens=12).text for prompt in prompts]
    pairs = zip(*(demo.stream(prompt, max_tokens=12) for prompt in prompts), strict=True)
    assert ["".join(chunk.text for chunk in column) for column in zip(*pairs, strict=True)] == alone
