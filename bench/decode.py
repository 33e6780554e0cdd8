"""How fast are tokens generated one by one, and what bounds it?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.decode -m /tmp/2b.gguf --context 64 --threads 2

Decoding reads every weight once a token, so its bound is the speed of memory. Tokens come through ``model.stream``,
with sampling and tokenizer; a read test of the same process is interleaved with them.
"""

import time

import bitnet_numba
from bench.common import interleaved, options, print_result
from bitnet_numba import GenerationResult, LanguageModel
from bitnet_numba.backends.cpu.threads.read_test import ReadTest
from bitnet_numba.evidence.benchmarks.run import bytes_per_token


class DecodeTest:
    """One stream of tokens, of which each measurement takes some more.

    Parameters
    ----------
    model : LanguageModel
    context : int
        The positions that a measured token looks back on, on average over all measurements.
    n_tokens : int
        Of a measurement.
    n_measurements : int
        How many there will be.

    Attributes
    ----------
    context : int
        As above; more where so short a prompt cannot be.
    """

    def __init__(self, model: LanguageModel, context: int, n_tokens: int, n_measurements: int) -> None:
        measured = n_tokens * n_measurements
        n_prompt = max(1, context - n_tokens - measured // 2)
        self.context = n_prompt + n_tokens + measured // 2
        self._n_tokens, self._taken, self._due = n_tokens, 0, 0
        self._result: GenerationResult | None = None
        prompt = [i % 256 for i in range(n_prompt)]
        spare = n_tokens  # for pieces of text that come with more tokens than were due
        self._stream = model.stream(prompt, max_tokens=1 + n_tokens + measured + spare, ignore_eos=True)
        next(self._stream)  # the first token ends the reading of the prompt
        self()

    def __call__(self) -> float:
        """Take some tokens; return their number a second."""
        self._due += self._n_tokens
        before, started = self._taken, time.perf_counter()
        for chunk in self._stream:
            self._taken += len(chunk.token_ids)
            self._result = chunk.result
            if self._taken >= self._due:
                break
        if self._taken == before:
            raise SystemExit("the text came in pieces of more tokens than a measurement has: raise --tokens")
        return (self._taken - before) / (time.perf_counter() - started)

    def rescored_rows(self) -> int:
        """Take what is left; return how many rows of the head were rescored for a token, on average over all."""
        for chunk in self._stream:
            self._result = chunk.result
        if self._result is None:
            raise RuntimeError("a stream ended without its result")
        return self._result.rescored_rows // self._result.generation_tokens


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--head", choices=["exact", "full"], default="exact")
    parser.add_argument("--tokens", type=int, default=12, help="a measurement")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with bitnet_numba.load(arguments.model, threads=arguments.threads, head=arguments.head) as model:
        read_test = ReadTest(model.threads)
        decode_test = DecodeTest(model, arguments.context, arguments.tokens, arguments.rounds)
        speed, read = interleaved(arguments.rounds, decode_test, read_test)
        read_test.close()
        vocab_size, rescored = model.config.vocab_size, decode_test.rescored_rows()
        rows = vocab_size if arguments.head == "full" else rescored
        needed = bytes_per_token(model.info()["memory"], vocab_size, rows, decode_test.context)
        result = {
            "tokens_per_second": round(speed, 2),
            "bytes_per_token": needed,
            "read_gb_per_second": round(read, 2),
            "mbu": round(speed * needed / read / 1e9, 3),
            "context": decode_test.context,
            "threads": model.threads,
            "isa": model.isa,
            "head": arguments.head,
            "rescored_rows": rescored,
        }
    bound = read * 1e9 / needed
    print(f"bound by memory: {needed / 1e6:.0f} MB a token, read at {read:.1f} GB/s at best: {bound:.1f} tokens/s")
    print(f"measured: {speed:.1f} tokens/s = {speed * needed / 1e9:.1f} GB/s = {result['mbu']:.0%} of the bound")
    print_result(result)


if __name__ == "__main__":
    main()
