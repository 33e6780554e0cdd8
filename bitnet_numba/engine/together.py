"""Several generations at the same time: a thread each, whose steps the scheduler joins."""

import threading
from collections.abc import Sequence

from bitnet_numba.engine.generate import GenerationResult, TokenStream, stream
from bitnet_numba.engine.protocols import CacheT, StreamDecoder

_LISTEN_SECONDS = 0.1  # how long an interrupt may go unheard


def generate_together(
    streams: Sequence[tuple[TokenStream[CacheT], StreamDecoder, float]],
) -> list[GenerationResult]:
    """Run generations to their end, each as :func:`bitnet_numba.engine.generate.stream` would alone.

    Parameters
    ----------
    streams : sequence of tuple
        What ``stream`` takes, for each of them.

    Returns
    -------
    list of GenerationResult
        In the same order.

    Raises
    ------
    BaseException
        The first that ended one of them; the others are ended too.
    """
    results: dict[int, GenerationResult] = {}
    failures: list[BaseException] = []
    is_over = threading.Event()

    def run(place: int) -> None:
        try:
            for chunk in stream(*streams[place]):
                if chunk.result is not None:
                    results[place] = chunk.result
                if is_over.is_set():
                    return
        except BaseException as failure:  # the caller's to handle, whatever it is
            failures.append(failure)
            is_over.set()

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(streams))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_LISTEN_SECONDS)
    finally:
        is_over.set()
    if failures:
        raise failures[0]
    return [results[place] for place in range(len(streams))]
