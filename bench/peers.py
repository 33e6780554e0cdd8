"""How fast are other programs, in the same minutes on the same machine?

    python -m bench.peers -m /tmp/2b.gguf
    python -m bench.peers -m /tmp/2b.gguf --llama-bench ~/llama.cpp/build/bin/llama-bench --llama-model /tmp/2b-tq2.gguf
    python -m bench.peers -m /tmp/2b.gguf --transformers-model ~/bitnet-b1.58-2B-4T
    python bench/make_model.py 2B-4T /tmp/2b-tq2.gguf --for-llama-cpp
    python -m bench.peers -m /tmp/2b-tq2.gguf

Whatever is installed reads the same number of tokens and writes the same number, in turns; the rest is named, with the
reason. Nothing is downloaded. llama.cpp reads TQ2_0, of which it screens nothing in the head, and no I2_S; transformers
unpacks ternary weights to bf16. Decoding is bound by memory and reading a prompt by arithmetic, for everybody.
"""

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import bitnet_numba
from bench.common import options, print_result, print_table


class Speed(NamedTuple):
    """Tokens a second."""

    prompt: float
    answer: float


class Skipped(Exception):
    """Why a program does not take part."""


Peer = Callable[[], Speed]


def ours(arguments: Namespace) -> Peer:
    """Return a measurement of this engine."""
    model = bitnet_numba.load(arguments.model, threads=arguments.threads, cached_prefixes=0)
    prompt = [i % 256 for i in range(arguments.prompt_tokens)]

    def measure() -> Speed:
        result = model.generate(prompt, max_tokens=arguments.tokens, ignore_eos=True)
        return Speed(result.prompt_tps, result.generation_tps)

    return measure


def transformers(arguments: Namespace) -> Peer:
    """Return a measurement of Hugging Face transformers on PyTorch, with a model directory that lies here."""
    _require_module("transformers")
    _require_module("torch")
    if arguments.transformers_model is None:
        raise Skipped("no directory given; --transformers-model DIR")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch  # only where it is installed
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.transformers_model, local_files_only=True)
    prompt = torch.arange(arguments.prompt_tokens).remainder(256).unsqueeze(0)

    def measure() -> Speed:
        clock, n_tokens = _Clock(), arguments.tokens + 1
        model.generate(prompt, max_new_tokens=n_tokens, min_new_tokens=n_tokens, do_sample=False, streamer=clock)
        return clock.speed(arguments)

    return measure


def llama_cpp(arguments: Namespace) -> Peer:
    """Return a measurement of llama-cpp-python."""
    _require_module("llama_cpp")
    from llama_cpp import Llama  # only where it is installed

    path, n_tokens = _llama_model(arguments), arguments.prompt_tokens + arguments.tokens + 1
    model = Llama(path, n_ctx=n_tokens, n_threads=arguments.threads, n_threads_batch=arguments.threads, verbose=False)
    prompt = [i % 256 for i in range(arguments.prompt_tokens)]

    def measure() -> Speed:
        model.reset()
        clock = _Clock()
        clock.put(prompt)
        for token in itertools.islice(model.generate(prompt, top_k=1), arguments.tokens + 1):
            clock.put(token)
        return clock.speed(arguments)

    return measure


def llama_bench(program: Path, arguments: Namespace) -> Peer:
    """Return a measurement of a llama-bench binary, whichever engine it belongs to."""
    if not os.access(program, os.X_OK):
        raise Skipped(f"{program}: no such program")
    command = [str(program), "-m", _llama_model(arguments), "-t", str(arguments.threads), "-r", "1", "-o", "json"]
    command += ["-p", str(arguments.prompt_tokens), "-n", str(arguments.tokens)]

    def measure() -> Speed:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise Skipped(f"exit status {done.returncode}: {lines[-1] if lines else 'no message'}")
        runs: list[dict[str, Any]] = json.loads(done.stdout)
        [prompt] = [run["avg_ts"] for run in runs if not run["n_gen"]]
        [answer] = [run["avg_ts"] for run in runs if not run["n_prompt"]]
        return Speed(prompt, answer)

    return measure


def _require_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise Skipped(f"{name} is not installed")


def _llama_model(arguments: Namespace) -> str:
    path = arguments.llama_model or arguments.model
    if path is None:
        raise Skipped("no model file given; --llama-model FILE")
    return str(path)


class _Clock:
    """Notes when the prompt and each token of its answer came; transformers takes it for a streamer."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def put(self, _: object) -> None:
        self._times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: the last token has come already."""

    def speed(self, arguments: Namespace) -> Speed:
        """Return the speeds of an engine that gave one token more than ``arguments`` ask for."""
        started, first, *_, last = self._times
        if len(self._times) != arguments.tokens + 2:
            raise Skipped(f"{len(self._times) - 1} tokens came, {arguments.tokens + 1} were asked for")
        return Speed(arguments.prompt_tokens / (first - started), arguments.tokens / (last - first))


def engines(arguments: Namespace) -> dict[str, Callable[[], Peer]]:
    """Return what makes each peer ready, by name; a binary is named by its path."""
    found: dict[str, Callable[[], Peer]] = {
        "bitnet-numba": partial(ours, arguments),
        "transformers": partial(transformers, arguments),
        "llama-cpp-python": partial(llama_cpp, arguments),
    }
    for program in arguments.llama_bench:
        found[str(program)] = partial(llama_bench, program, arguments)
    return found


def measure(arguments: Namespace) -> tuple[dict[str, Speed], dict[str, str]]:
    """Return the medians of all that ran, and why the others did not."""
    ready: dict[str, Peer] = {}
    skipped = {} if arguments.llama_bench else {"llama-bench": "no binary given; --llama-bench PATH"}
    for name, prepare in engines(arguments).items():
        try:
            ready[name] = prepare()
            ready[name]()  # what fails at all fails now
        except Skipped as reason:
            skipped[name] = str(reason)
        except Exception as error:  # of a program that is not ours: the others go on
            if name == "bitnet-numba":
                raise
            skipped[name] = f"{type(error).__name__}: {error}"
    running = [name for name in ready if name not in skipped]
    taken = [{name: ready[name]() for name in running} for _ in range(arguments.rounds)]
    medians = {
        name: Speed(*(statistics.median(speeds) for speeds in zip(*(row[name] for row in taken), strict=True)))
        for name in running
    }
    return medians, skipped


def _cells(speed: Speed, first: Speed) -> list[str]:
    return [text for pair in zip(speed, first, strict=True) for text in (f"{pair[0]:.1f}", f"{pair[0] / pair[1]:.2f}")]


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model", help="of this engine, and of the others that read it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16, help="of the answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-bench", type=Path, action="append", default=[], metavar="PATH")
    parser.add_argument("--llama-model", type=Path, metavar="FILE", help="in a format that they read; default: MODEL")
    parser.add_argument("--transformers-model", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    speeds, skipped = measure(arguments)
    print(f"a prompt of {arguments.prompt_tokens} tokens is bound by arithmetic, the answer's tokens by memory")
    first = speeds["bitnet-numba"]
    header = ["program", "prompt tokens/s", "of ours", "tokens/s", "of ours"]
    print_table(header, [[name, *_cells(speed, first)] for name, speed in speeds.items()])
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}")
    peers = {
        name: {"prompt_tokens_per_second": round(speed.prompt, 2), "tokens_per_second": round(speed.answer, 2)}
        for name, speed in speeds.items()
    }
    print_result({"peers": peers, "skipped": skipped, "threads": arguments.threads})


if __name__ == "__main__":
    main()
