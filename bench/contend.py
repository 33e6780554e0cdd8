"""What do other programs cost, and a busy thread of one's own?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.contend -m /tmp/2b.gguf --threads 2

Tokens are generated alone, beside processes that spin (wherever the system puts them, or each pinned to a core of its
own), and beside a Python thread of this process that computes. The scheduler's fair shares bound the speed: n threads
and k spinning processes on n cores leave n / (n + k) of them. All cases are interleaved.
"""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import bitnet_numba
from bench.common import interleaved, options, print_result, print_table
from bench.decode import DecodeTest
from bitnet_numba import LanguageModel
from bitnet_numba.machine_limits import usable_cores

SETTLING_SECONDS = 0.1  # until the scheduler has moved everybody to where they stay
TURNS_UNASKED = 10_000
ONE_THREAD, ALONE, PYTHON_THREAD = "one thread, alone", "alone", "a busy Python thread"


class Spinner:
    """A process that keeps a core busy while it is let.

    Parameters
    ----------
    core : int, optional
        The only one that it may run on.
    """

    def __init__(self, core: int | None = None) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        self._process.send_signal(signal.SIGSTOP)
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Let it run for the length of a block."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> "Spinner":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def busy_python_thread() -> Iterator[None]:
    """Let a thread of this process compute in Python for the length of a block."""
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            for _ in range(TURNS_UNASKED):
                pass

    thread = threading.Thread(target=spin, name="busy")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def all_busy(spinners: Sequence[Spinner]) -> Iterator[None]:
    """Let several processes run for the length of a block."""
    with ExitStack() as stack:
        for spinner in spinners:
            stack.enter_context(spinner.busy())
        yield


def beside(company: Callable[[], AbstractContextManager[None]], test: DecodeTest) -> Callable[[], float]:
    """Return a measurement that is taken in company."""

    def measure() -> float:
        with company():
            time.sleep(SETTLING_SECONDS)
            return test()

    return measure


def measure_cases(model: LanguageModel, single: LanguageModel, n_tokens: int, rounds: int) -> dict[str, float]:
    """Return tokens/s of every case."""
    cores = sorted(os.sched_getaffinity(0))
    counts = (1, 2)
    with ExitStack() as stack:
        free = [stack.enter_context(Spinner()) for _ in range(max(counts))]
        pinned = [stack.enter_context(Spinner(core)) for core in itertools.islice(itertools.cycle(cores), max(counts))]
        companies: dict[str, Callable[[], AbstractContextManager[None]]] = {ALONE: nullcontext}
        for count in counts:
            companies[process_case(count)] = partial(all_busy, free[:count])
            companies[process_case(count, pinned=True)] = partial(all_busy, pinned[:count])
        companies[PYTHON_THREAD] = busy_python_thread
        context = n_tokens * (rounds + 1) * len(companies) // 2 + n_tokens  # the least that so many tokens allow
        test = DecodeTest(model, context, n_tokens, rounds * len(companies))
        measures = {ONE_THREAD: beside(nullcontext, DecodeTest(single, context, n_tokens, rounds))}
        measures |= {name: beside(company, test) for name, company in companies.items()}
        return dict(zip(measures, interleaved(rounds, *measures.values()), strict=True))


def process_case(count: int, *, pinned: bool = False) -> str:
    """Name the case of so many spinning processes."""
    return f"{count} process{'es' if count > 1 else ''}{', pinned' if pinned else ''}"


def ratios(speeds: dict[str, float]) -> dict[str, float]:
    """Return how much longer a token takes: beside a process than one thread alone, a thread than a process, and so on.

    References
    ----------
    The first should be at most 1.3, the last below 1.2.
    """
    one, two = (min(speeds[process_case(count)], speeds[process_case(count, pinned=True)]) for count in (1, 2))
    return {
        "one_process_to_one_thread_alone": round(speeds[ONE_THREAD] / one, 3),
        "two_processes_to_one_thread_alone": round(speeds[ONE_THREAD] / two, 3),
        "python_thread_to_process": round(speeds[process_case(1)] / speeds[PYTHON_THREAD], 3),
    }


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=8, help="a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("bench.contend pins processes to cores, which only Linux lets it do; run it there")
    with (
        bitnet_numba.load(arguments.model, threads=arguments.threads) as model,
        bitnet_numba.load(arguments.model, threads=1) as single,
    ):
        speeds = measure_cases(model, single, arguments.tokens, arguments.rounds)
        result = {
            "tokens_per_second": {name: round(speed, 2) for name, speed in speeds.items()},
            **ratios(speeds),
            "threads": model.threads,
            "cores": usable_cores().cores,
            "isa": model.isa,
        }
    print(f"bound by the scheduler: fair shares of {result['cores']} cores")
    header = ["", "tokens/s", "time of a token, one thread alone = 1"]
    print_table(header, [[name, f"{speed:.1f}", f"{speeds[ONE_THREAD] / speed:.2f}"] for name, speed in speeds.items()])
    print(f"a busy Python thread takes {result['python_thread_to_process']:.2f} times as long as a busy process")
    print_result(result)


if __name__ == "__main__":
    main()
