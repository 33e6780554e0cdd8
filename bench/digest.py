"""Print the digest of what models compute, for each way of computing it: the same on every CPU.

    python -m bench.digest demo --threads 1 2 --chunks 1 7 64 512 --tokens 64

A digest covers the tokens of a greedy answer, generated once with and once without log probabilities; these; and the
logits after each token of prompt and answer, read in chunks. The speeds beside it are those of the answer without.
"""

import argparse
import hashlib
import itertools
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bitnet_numba
from bitnet_numba import GenerationResult, LanguageModel

TEXT = "Once upon a time, there was a little dog named Max. One day, Max went to the park to play with his friends. "


class Way(NamedTuple):
    """A way to compute the same.

    Attributes
    ----------
    threads : int
        How many share the work.
    batch : int
        Sequences that are answered at the same time; the digest is of one of them.
    chunk_size : int
        Tokens that are read at once.
    """

    threads: int
    batch: int
    chunk_size: int

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._asdict().items())


def prompt_ids(model: LanguageModel, n_tokens: int) -> list[int]:
    """Return a prompt of exactly ``n_tokens``: a story as often as it takes."""
    ids = model.tokenize(TEXT)
    repeated = model.tokenize(TEXT, add_bos=False)
    while len(ids) < n_tokens:
        ids += repeated
    return ids[:n_tokens]


def answers(model: LanguageModel, prompt: list[int], n_tokens: int, batch: int) -> list[GenerationResult]:
    """Return the greedy continuation of a prompt twice, with log probabilities and without.

    The others of its batch have read beginnings of it.
    """
    prompts = [prompt, *(prompt[: 5 * other] for other in range(1, batch))]
    with_logprobs = model.generate_batch(prompts, max_tokens=n_tokens, ignore_eos=True, logprobs=0)
    return [with_logprobs[0], model.generate_batch(prompts, max_tokens=n_tokens, ignore_eos=True)[0]]


def digest(model: LanguageModel, prompt: list[int], answered: Sequence[GenerationResult], chunk_size: int) -> str:
    """Return the SHA-256 of answers, and of all logits that belong to the first of them."""
    state = hashlib.sha256(np.array(prompt, np.int32).tobytes())
    for result in answered:
        state.update(np.array(result.token_ids, np.int32).tobytes())
        state.update(np.array([token.logprob for token in result.logprobs or ()], np.float64).tobytes())
    state.update(model.logits(prompt + answered[0].token_ids, chunk_size).tobytes())
    return state.hexdigest()


def report(path: str, ways: list[Way], n_prompt: int, n_tokens: int) -> dict[str, Any]:
    """Return the digest of a model for each way, and its speed with the most threads and the largest batch."""
    found = {}
    for threads, group in itertools.groupby(sorted(ways), key=lambda way: way.threads):
        with bitnet_numba.load(path, threads=threads, cached_prefixes=0) as model:
            prompt = prompt_ids(model, n_prompt)
            for batch, same in itertools.groupby(group, key=lambda way: way.batch):
                answered = answers(model, prompt, n_tokens, batch)
                for way in same:
                    found[str(way)] = digest(model, prompt, answered, way.chunk_size)
    return {
        "model": Path(path).stem,
        "isa": answered[-1].isa,
        "digests": found,
        "threads": answered[-1].threads,
        "prompt_tokens_per_second": round(answered[-1].prompt_tps, 2),
        "tokens_per_second": round(answered[-1].generation_tps, 2),
    }


def main() -> None:
    """Print a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="GGUF files, Hugging Face directories, or demo")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 7, 64, 512])
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64, help="of the answer")
    arguments = parser.parse_args()
    ways = [Way(*values) for values in itertools.product(arguments.threads, arguments.batches, arguments.chunks)]
    for path in arguments.models:
        found = report(path, ways, arguments.prompt_tokens, arguments.tokens)
        print(json.dumps({"machine": platform.machine(), **found}), flush=True)


if __name__ == "__main__":
    main()
