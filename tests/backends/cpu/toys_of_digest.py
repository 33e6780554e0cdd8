"""The toy models whose digests are compared between CPUs: ``python -m tests.backends.cpu.toys_of_digest FOLDER``."""

import sys
from pathlib import Path

from tests.tiny import toy_model

CONTEXT = 640
SIZES = {
    "hidden_size": 160,
    "n_heads": 6,
    "n_kv_heads": 3,
    "head_dim": 20,
    "intermediate_size": 540,
}  # padding anywhere


def write_toys(folder: Path) -> list[Path]:
    """Write a model of each family, with several groups of heads; return their files."""
    return [
        toy_model(architecture, seed=11, max_seq_len=CONTEXT, **SIZES).gguf().write(folder / f"{architecture}.gguf")
        for architecture in ("bitnet-b1.58", "bitnet", "llama")
    ]


if __name__ == "__main__":
    write_toys(Path(sys.argv[1]))
