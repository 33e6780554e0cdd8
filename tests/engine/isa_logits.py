"""Print a digest of the logits of toy models: ``python -m tests.engine.isa_logits``, under any ``BITNET_ISA``."""

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.engine.running import transformer
from tests.tiny import ToyModel, toy_model

NEW_TOKENS = 16


def toys() -> list[ToyModel]:
    """Return a model of each family, whose sizes leave padding everywhere."""
    sizes = {"hidden_size": 160, "n_heads": 5, "n_kv_heads": 1, "head_dim": 20, "intermediate_size": 540}
    return [toy_model(architecture, seed=11, **sizes) for architecture in ("bitnet-b1.58", "bitnet", "llama")]


def logits_digest(folder: Path) -> str:
    """Return the SHA-256 of the logits of a prompt and of a greedy continuation, for each family in turn."""
    state = hashlib.sha256()
    for number, toy in enumerate(toys()):
        model = transformer(toy.gguf().write(folder / f"{number}.gguf"))
        cache = model.new_cache(64)
        logits = model.forward(toy.tokens(21), cache, "all")
        for _ in range(NEW_TOKENS):
            state.update(logits.tobytes())
            logits = model.forward(np.array([logits[-1].argmax()], np.int32), cache)
        state.update(logits.tobytes())
        model.close()
    return state.hexdigest()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(f"{logits_digest(Path(folder))}\n")
