"""Closing a model gives memory and threads back at once; one that is dropped gives them back when it is collected."""

import gc
import threading
import weakref

import pytest

import bitnet_numba
from bitnet_numba.errors import BitNetError


def test_a_closed_model_holds_no_weights() -> None:
    model = bitnet_numba.load("demo")
    model.generate("Once", max_tokens=2)
    weights = weakref.ref(model.engine.backend.weights.qkv)
    stream = model.stream("Once", max_tokens=8)
    next(stream)
    model.close()
    assert weights() is None
    assert model.prefix_cache_bytes == 0
    for use in (lambda: model.generate("x"), lambda: next(stream), lambda: model.logits([1])):
        with pytest.raises(BitNetError, match="the model was closed"):
            use()
    model.close()


def test_a_dropped_model_ends_its_threads() -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        model = bitnet_numba.load("demo", threads=2)
        model.generate("Once", max_tokens=2)
        del model
    gc.collect()
    for thread in set(threading.enumerate()) - before:  # they end after their last wait
        thread.join(timeout=10)
    assert set(threading.enumerate()) <= before


def test_closing_waits_for_the_step_that_runs() -> None:
    model = bitnet_numba.load("demo")
    outcome: list[object] = []

    def generate() -> None:
        try:
            outcome.append(model.generate("Once upon a time", max_tokens=400, ignore_eos=True))
        except BitNetError as error:
            outcome.append(error)

    threads = [threading.Thread(target=generate) for _ in range(4)]
    for thread in threads:
        thread.start()
    model.close()
    for thread in threads:
        thread.join()
    assert len(outcome) == 4
    assert all("the model was closed" in str(each) for each in outcome if isinstance(each, BitNetError))
