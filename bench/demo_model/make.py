"""Make the embedded model from its checkpoint, or check that the file in the package is that one."""

import argparse
import filecmp
import json
import sys
import tempfile
from pathlib import Path

from bitnet_numba.demo import demo_model_path
from bitnet_numba.errors import BitNetError
from bitnet_numba.export.gguf import export_gguf
from bitnet_numba.files import sha256_file

CHECKPOINT = Path(__file__).parent / "checkpoint"
MODEL_NAME = "bitnet-demo-5.8m"


def make(out: Path) -> None:
    """Write the embedded model to ``out``."""
    export_gguf(CHECKPOINT, out, name=MODEL_NAME)


def check(path: Path) -> None:
    """Make the model again elsewhere and compare it, byte for byte, with the file at ``path``.

    Raises
    ------
    BitNetError
        If there is no such file, or it differs.
    """
    if not path.is_file():
        raise BitNetError(f"{path}: no such file; run make demo-model and commit the file")
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / path.name
        make(again)
        if not filecmp.cmp(again, path, shallow=False):
            raise BitNetError(
                f"{path}: is not what {CHECKPOINT} makes; run make demo-model and commit the file if this is meant"
            )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description="Make the embedded model from bench/demo_model/checkpoint.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file in the package differs")
    parser.add_argument("--out", type=Path, default=demo_model_path(), help="default: the file in the package")
    options = parser.parse_args(arguments)
    try:
        (check if options.check else make)(options.out)
    except BitNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    size, digest = options.out.stat().st_size, sha256_file(options.out)
    print(json.dumps({"file": options.out.name, "size_bytes": size, "sha256": digest}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
