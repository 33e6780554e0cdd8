"""What does a longer context cost, and does the count of bytes tell it beforehand?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.context -m /tmp/2b.gguf --contexts 64 512 2048 4000

A token reads every weight, and the keys and values of all positions behind it. The prediction is these bytes at the
speed of a plain read test; streams of all contexts and the read test are interleaved.
"""

import bitnet_numba
from bench.common import interleaved, options, print_result, print_table
from bench.decode import DecodeTest
from bitnet_numba.backends.cpu.threads.read_test import ReadTest
from bitnet_numba.evidence.benchmarks.run import bytes_per_token


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512, 2048, 4000])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=8, help="a measurement")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with bitnet_numba.load(arguments.model, threads=arguments.threads) as model:
        read_test = ReadTest(model.threads)
        tests = [DecodeTest(model, context, arguments.tokens, arguments.rounds) for context in arguments.contexts]
        *speeds, read = interleaved(arguments.rounds, *tests, read_test)
        read_test.close()
        memory, vocab_size = model.info()["memory"], model.config.vocab_size
        needed = [bytes_per_token(memory, vocab_size, test.rescored_rows(), test.context) for test in tests]
        rows = [
            {
                "context": test.context,
                "bytes_per_token": size,
                "predicted_tokens_per_second": round(read * 1e9 / size, 2),
                "tokens_per_second": round(speed, 2),
                "mbu": round(speed * size / read / 1e9, 3),
            }
            for test, speed, size in zip(tests, speeds, needed, strict=True)
        ]
        result = {"contexts": rows, "read_gb_per_second": round(read, 2), "threads": model.threads, "isa": model.isa}
    print(f"bound by memory: weights and keys and values, read at {read:.1f} GB/s at best")
    header = ["context", "MB a token", "predicted tokens/s", "measured tokens/s", "share"]
    print_table(header, [_cells(row) for row in rows])
    print_result(result)


def _cells(row: dict[str, float]) -> list[str]:
    return [
        f"{row['context']}",
        f"{row['bytes_per_token'] / 1e6:.1f}",
        f"{row['predicted_tokens_per_second']:.1f}",
        f"{row['tokens_per_second']:.1f}",
        f"{row['mbu']:.0%}",
    ]


if __name__ == "__main__":
    main()
