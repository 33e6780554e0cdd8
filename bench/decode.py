"""How fast are tokens generated one by one, and what bounds it?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.decode -m /tmp/2b.gguf --context 64 --threads 2

Decoding reads every weight once a token, so its bound is the speed of memory. Tokens come through ``model.stream``,
with sampling and tokenizer; a read test of the same process is interleaved with them.
"""

import argparse
import json
import time

import bitnet_numba
from bench.read import ReadTest, interleaved


def bytes_per_token(memory: dict[str, int], vocab_size: int, rows: int, context: int) -> int:
    """Return the bytes that a token must read.

    Parameters
    ----------
    memory : dict of str to int
        Of ``model.info()``.
    vocab_size : int
    rows : int
        Of the head, read in its own format beside its int8 copy.
    context : int
        Positions whose keys and values are read.
    """
    head = memory["head_int8_copy"] + memory["embedding_and_head"] * rows // vocab_size
    return memory["ternary_weights"] + head + context * memory["kv_cache_per_position"]


def main() -> None:
    """Print a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--head", choices=["exact", "f16", "int8"], default="exact")
    parser.add_argument("--tokens", type=int, default=16, help="a measurement")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with bitnet_numba.load(arguments.model, threads=arguments.threads, head=arguments.head) as model:
        prompt = [i % 256 for i in range(arguments.context)]
        read_test = ReadTest(model.threads)
        rescored: list[int] = []  # of every token, on average over a measurement

        def tokens_per_second() -> float:
            stream = model.stream(prompt, max_tokens=arguments.tokens + 1, ignore_eos=True)
            next(stream)  # the first token ends the reading of the prompt
            started = time.perf_counter()
            for chunk in stream:
                last = chunk
            seconds = time.perf_counter() - started
            rescored.append(last.result.rescored_rows // (arguments.tokens + 1))
            return arguments.tokens / seconds

        tokens_per_second()
        speed, read = interleaved(arguments.rounds, tokens_per_second, read_test)
        read_test.close()
        vocab_size = model.config.vocab_size
        rows = vocab_size if arguments.head == "f16" else max(rescored)
        needed = bytes_per_token(model.info()["memory"], vocab_size, rows, arguments.context)
        result = {
            "tokens_per_second": round(speed, 2),
            "bytes_per_token": needed,
            "read_gb_per_second": round(read, 2),
            "mbu": round(speed * needed / read / 1e9, 3),
            "context": arguments.context,
            "threads": model.threads,
            "isa": model.isa,
            "head": arguments.head,
            "rescored_rows": max(rescored),
        }
    bound = read * 1e9 / needed
    print(f"bound by memory: {needed / 1e6:.0f} MB a token, read at {read:.1f} GB/s at best: {bound:.1f} tokens/s")
    print(f"measured: {speed:.1f} tokens/s = {speed * needed / 1e9:.1f} GB/s = {result['mbu']:.0%} of the bound")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
