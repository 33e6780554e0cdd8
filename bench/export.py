"""What does an export cost: how much memory, and how far is it from plain copying and hashing?

    python -m bench.export --shape 2B-4T --types i2_s f16

A checkpoint of the shape (bf16 master weights in shards, the embedding in float32) is made in .cache/bench where it is
missing. Each export runs in a process of its own, whose peak memory counts the pages of mapped files too. The yardstick
reads and hashes the same shards, writes as many bytes as the export does, hashes those and forces them to the disk.
"""

import hashlib
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bench.checkpoint import write_checkpoint
from bench.common import options, print_result, print_table
from bitnet_numba.export.model import ExportRequest, export_model
from bitnet_numba.export.quantization import TYPES
from bitnet_numba.files import sha256_file
from bitnet_numba.generate.memory_check import peak_memory_mb

FOLDER = Path(".cache") / "bench"
ALLOWED_MB = 1000.0
PIECE = 1 << 23


class Cost(NamedTuple):
    """What an export took."""

    seconds: float
    peak_mb: float
    output_bytes: int


def export(checkpoint: Path, kind: str) -> Cost:
    """Export to a folder that is removed again."""
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        started = time.perf_counter()
        result = export_model(ExportRequest(checkpoint, Path(folder), kind))
        return Cost(time.perf_counter() - started, peak_memory_mb(), result.meta["size_bytes"])


def copy(checkpoint: Path, output_bytes: int) -> float:
    """Read and hash the shards, write and hash so many bytes of them; return the seconds."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        out = Path(folder) / "copy"
        with out.open("wb") as target:
            for shard in sorted(checkpoint.glob("*.safetensors")):
                digest = hashlib.sha256()
                with shard.open("rb") as source:
                    while piece := source.read(PIECE):
                        digest.update(piece)
                        target.write(piece[: max(0, output_bytes - target.tell())])
            target.flush()
            os.fsync(target.fileno())
        sha256_file(out)
        return time.perf_counter() - started


def main() -> None:
    """Print a table and a JSON object; end with status 1 where an export took more memory than it may."""
    parser = options(__doc__)
    parser.add_argument("--shape", default="2B-4T", choices=("0.7B", "2B-4T"))
    parser.add_argument("--types", nargs="+", choices=TYPES, default=["i2_s", "f16"])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    checkpoint = arguments.folder / f"{arguments.shape}-masters"
    if not (checkpoint / "tokenizer.json").exists():  # the last file to be written
        write_checkpoint(arguments.shape, checkpoint)
    source_bytes = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    rows = []
    for kind in arguments.types:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            cost = process.submit(export, checkpoint, kind).result()
        seconds = copy(checkpoint, cost.output_bytes)
        rows.append(
            {
                "type": kind,
                "output_bytes": cost.output_bytes,
                "seconds": round(cost.seconds, 2),
                "mb_per_second": round(source_bytes / 1e6 / cost.seconds, 1),
                "copy_and_hash_mb_per_second": round(source_bytes / 1e6 / seconds, 1),
                "peak_mb": round(cost.peak_mb, 1),
            }
        )
    print(f"bound by disk and hashing: a checkpoint of {source_bytes / 1e9:.2f} GB")
    header = ["type", "output GB", "seconds", "MB/s", "copy and hash MB/s", "peak MB"]
    print_table(header, [[str(value) for value in _cells(row)] for row in rows])
    within = all(cost["peak_mb"] <= ALLOWED_MB for cost in rows)
    print_result({"shape": arguments.shape, "source_bytes": source_bytes, "exports": rows, "within_1_gb": within})
    if not within:
        raise SystemExit(1)


def _cells(row: dict[str, float]) -> list[object]:
    size = row["output_bytes"] / 1e9
    return [row["type"], f"{size:.2f}", *(row[key] for key in list(row)[2:])]


if __name__ == "__main__":
    main()
