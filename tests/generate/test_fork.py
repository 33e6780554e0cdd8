"""A model that was loaded before a fork works in the child too, with threads of the child's own; nothing hangs."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

import bitnet_numba
from bitnet_numba import LanguageModel
from bitnet_numba.errors import BitNetError
from tests.subprocesses import run_python

PROMPT, TOKENS = "The dog", 24
SECONDS = 60  # a child that hangs is killed by then

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def model() -> Iterator[LanguageModel]:
    with bitnet_numba.load("demo", threads=2) as loaded:
        yield loaded


def answer(model: LanguageModel) -> str:
    return model.generate(PROMPT, max_tokens=TOKENS).text


def in_child(work: Callable[[], str]) -> str:
    """Return what some work gives in a forked child; fail if it hangs or raises."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            signal.alarm(SECONDS)
            with os.fdopen(write_end, "w") as out:
                out.write(work())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as result:
        text = result.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"
    return text


def test_the_child_and_then_the_parent_say_the_same(model: LanguageModel) -> None:
    expected = answer(model)
    assert in_child(lambda: answer(model)) == expected
    assert in_child(lambda: in_child(lambda: answer(model))) == expected
    assert answer(model) == expected


def test_a_model_that_never_ran_works_in_the_child(model: LanguageModel) -> None:
    assert in_child(lambda: answer(model)) == answer(model)


def test_the_child_batches_and_streams(model: LanguageModel) -> None:
    expected = answer(model)

    def work() -> str:
        streamed = "".join(chunk.text for chunk in model.stream(PROMPT, max_tokens=TOKENS))
        batch = model.generate_batch([PROMPT, "Once"], max_tokens=TOKENS)
        assert streamed == batch[0].text
        return streamed

    assert in_child(work) == expected


def test_the_child_closes_its_copy_and_the_parent_goes_on(model: LanguageModel) -> None:
    def work() -> str:
        model.close()
        try:
            return answer(model)
        except BitNetError as error:
            return str(error)

    assert "closed" in in_child(work)
    assert answer(model)


def test_the_thread_that_forks_keeps_its_stream(model: LanguageModel) -> None:
    expected = answer(model)
    stream = model.stream(PROMPT, max_tokens=TOKENS)
    begun = next(stream).text

    def rest() -> str:
        return begun + "".join(chunk.text for chunk in stream)

    assert in_child(rest) == expected
    assert rest() == expected


def test_forks_in_the_middle_of_another_thread_s_generation(model: LanguageModel) -> None:
    expected = answer(model)
    stop = threading.Event()
    others: list[str] = []

    def generate() -> None:
        while not stop.is_set():
            others.append(answer(model))

    threads = [threading.Thread(target=generate) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            assert in_child(lambda: answer(model)) == expected
            assert in_child(lambda: str(model.engine.n_running)) == "0"  # the parent's sequences stay there
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(others) == {expected}


def _work(prompt: str) -> str:
    """What a process of a pool does: a model that the fork brought along, or one of its own."""
    model = _inherited or bitnet_numba.load("demo", threads=1)
    return model.generate(prompt, max_tokens=TOKENS).text


_inherited: LanguageModel | None = None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_each_start_method(method: str, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answer(model)
    monkeypatch.setattr(f"{__name__}._inherited", model)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(_work, [PROMPT, PROMPT, PROMPT], timeout=SECONDS)) == [expected] * 3


def test_threads_that_take_turns_are_refused_at_once() -> None:
    pytest.importorskip("gevent")
    program = "from gevent import monkey; monkey.patch_all()\nimport bitnet_numba\nbitnet_numba.load('demo')"
    done = run_python("-W", "ignore", "-c", program)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "bitnet_numba.errors.UnsupportedError: Python's threads are replaced by ones that take turns"
    )
