"""Start with each of some models, and print the files of compiled kernels that were read.

python -m kernels_package.starts demo F16
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import bitnet_numba
from bitnet_numba.formats.gguf_types import TensorType
from tests.tiny import toy_model


def main() -> None:
    """Load each model on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    read: dict[str, None] = {}

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(".nbc"):
            read[str(arguments[0])] = None

    sys.addaudithook(note)
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:]:
            path = name if name == "demo" else str(toy(name, Path(folder)))
            with bitnet_numba.load(path, threads=1) as model:
                model.generate([1, 2], max_tokens=2, temperature=0.5, seed=1, ignore_eos=True)
    print("\n".join(path for path in read if Path(path).exists()))


def toy(embedding: str, folder: Path) -> Path:
    """Write a toy model with an embedding of this type."""
    model = toy_model(embedding_type=TensorType[embedding], max_seq_len=256)
    return model.gguf(TensorType.I2_S).write(folder / f"{embedding}.gguf")


if __name__ == "__main__":
    main()
