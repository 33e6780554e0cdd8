"""How long Python lets a thread go on that others wait for: briefly inside a block, and as before after it."""

import sys
import threading
from collections.abc import Iterator

import pytest

from bitnet_numba.backends.cpu.threads.switch_interval import SHORT, PromptReturn


@pytest.fixture(autouse=True)
def interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("microseconds", [5000, 3333, 1000, 201])
def test_is_short_inside_and_as_before_after_the_last_block(microseconds: int) -> None:
    sys.setswitchinterval((microseconds + 0.5) / 1e6)
    before, block = sys.getswitchinterval(), PromptReturn()
    for _ in range(100):
        with block:
            with block:
                assert sys.getswitchinterval() == min(before, SHORT / 1e6)
            assert sys.getswitchinterval() == min(before, SHORT / 1e6)
        assert sys.getswitchinterval() == before


def test_is_as_before_after_an_error() -> None:
    sys.setswitchinterval(0.005)
    with pytest.raises(KeyError), PromptReturn():
        raise KeyError
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_what_others_set_meanwhile_stays() -> None:
    sys.setswitchinterval(0.005)
    with PromptReturn():
        sys.setswitchinterval(0.02)
    assert sys.getswitchinterval() == pytest.approx(0.02)


def test_many_threads_leave_it_as_it_was() -> None:
    sys.setswitchinterval(0.005)
    block, seen = PromptReturn(), []

    def work() -> None:
        for _ in range(200):
            with block:
                seen.append(sys.getswitchinterval())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == pytest.approx([SHORT / 1e6] * 1600)
    assert sys.getswitchinterval() == pytest.approx(0.005)
