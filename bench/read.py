"""How fast can this machine read memory? The wall that decoding runs against.

python -m bench.read --threads 2
"""

from bench.common import interleaved, options, print_result
from bitnet_numba.backends.cpu.threads.read_test import N_BYTES, ReadTest


def main() -> None:
    """Print the speed."""
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    test = ReadTest(arguments.threads)
    [speed] = interleaved(arguments.rounds, test)
    test.close()
    print(f"{arguments.threads} threads read {N_BYTES / 1e6:.0f} MB at {speed:.1f} GB/s (median of {arguments.rounds})")
    print_result({"threads": arguments.threads, "read_gb_per_second": round(speed, 2)})


if __name__ == "__main__":
    main()
