"""Shared part of the exports to other runtimes: a model as plain arrays, and a comparison of logits with the engine.

A file is moved to its place only after the other runtime has loaded it and computed the engine's logits.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.model.roles import ROTATED_ROLES
from bitnet_numba.model.rope_scaling import rope_frequencies
from bitnet_numba.model.source import ModelSource
from bitnet_numba.options import LoadOptions

Floats = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int64]

PROMPT = "The capital of France is"
MIN_CORRELATION = 0.99  # a wrong graph gives less than 0.9; other roundings to int8 give 0.996 over 30 layers


@dataclass(frozen=True, slots=True)
class Exported:
    """A model written for another runtime, and the comparison of its logits with the engine's."""

    path: Path
    size: int  # bytes of all its files
    runtime: str
    n_tokens: int
    largest_difference: float  # between two logits, over all positions of the prompt
    first_difference: float  # at the first position, to which no earlier rounding propagates
    correlation: float
    same_choices: int  # positions with the same most likely token


# ---- arrays ----------------------------------------------------------------------------------------------------------
def stored_matrix(source: ModelSource, role: str) -> npt.NDArray[Any]:
    """Return the embedding or head as float16, int16 (bfloat16 bits) or float32, also where it is int8."""
    values, scales = source.matrix(role)
    if values.dtype == np.uint16:
        return values.view(np.float16)
    if values.dtype == np.int8:
        return values * np.repeat(scales, values.shape[1] // scales.shape[1], axis=1)
    return values


def linear_weights(source: ModelSource, role: str, layer: int) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Return a linear layer as int8[rows, columns] and its scale; rows of q and k for pairs (i, i + head_dim / 2)."""
    config = source.config
    matrix = source.linear(role, layer)
    weights = matrix.unpacked()
    if config.adjacent_pairs and role in ROTATED_ROLES:
        in_pairs = weights.reshape(-1, config.head_dim // 2, 2, weights.shape[1])
        weights = np.ascontiguousarray(in_pairs.swapaxes(1, 2)).reshape(weights.shape)
    return weights, matrix.scale


def rotations(source: ModelSource, n_positions: int) -> tuple[Floats, Floats]:
    """Return cosines and sines of RoPE, float32[n_positions, head_dim // 2] each."""
    from bitnet_numba.backends.cpu.kernels.rope import rope_table  # here, because it imports numba

    half = source.config.head_dim // 2
    table = rope_table(rope_frequencies(source), n_positions, half)
    return np.ascontiguousarray(table[:, :half]), np.ascontiguousarray(table[:, half:])


# ---- the file --------------------------------------------------------------------------------------------------------
def export_compared(
    source: ModelSource,
    out_path: Path,
    max_context: int | None,
    prompt: str,
    save: Callable[[int, TokenIds, Path], None],
    run: Callable[[Path, TokenIds], Floats],
    runtime: str,
) -> Exported:
    """Save a model, run it over a prompt, and move the file to its place only if its logits are the engine's.

    ``save`` gets the largest number of tokens of one run (by default the context length of the training), the prompt's
    tokens, int64[n_tokens], and a path; ``run`` returns the logits that a file gives, float32[n_tokens, vocab_size].
    """
    with _moved_on_success(out_path) as made:
        trained = source.config.max_seq_len
        if max_context is not None and not 1 <= max_context <= trained:
            raise ParameterError(f"max_context is {max_context}, the model holds 1 to {trained:,} positions")
        context = max_context or trained
        ids = np.asarray(source.tokenizer().encode(prompt)[:context], np.int64)
        if not ids.size:
            raise ParameterError("the prompt of the check has no tokens; give one that has")
        save(context, ids, made)
        size = sum(file.stat().st_size for file in made.parent.iterdir())
        return compared(out_path, size, runtime, _engine_logits(source, ids), run(made, ids))


@contextmanager
def _moved_on_success(out_path: Path) -> Iterator[Path]:
    """Yield a path in a temporary directory beside the file; if the block succeeds, move the files there out."""
    if not out_path.parent.is_dir():
        raise BitNetError(f"{out_path.parent}: no such directory; create it first")
    with tempfile.TemporaryDirectory(dir=out_path.parent, prefix=f".{out_path.name}.") as folder:
        yield Path(folder) / out_path.name
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the data before the graph that needs it
            file.chmod(0o644)
            file.replace(out_path.parent / file.name)


def _engine_logits(source: ModelSource, ids: TokenIds) -> Floats:
    """Return the engine's logits with a float32 KV cache, as the graph has it: float32[n_tokens, vocab_size]."""
    from bitnet_numba.generate.load import load_model  # here, because it imports numba

    options = LoadOptions(kv_type="f32", head="full", max_context=int(ids.size), cached_prefixes=0)
    with load_model(source, options) as model:
        return model.logits(ids.tolist())


def compared(path: Path, size: int, runtime: str, ours: Floats, theirs: Floats) -> Exported:
    """Compare the engine's logits with another runtime's; raise a BitNetError if they are of different models."""
    if theirs.shape != ours.shape or not np.isfinite(theirs).all():
        raise BitNetError(f"{path}: {runtime} gives {theirs.shape} logits, not all finite; please report this")
    difference = np.abs(ours.astype(np.float64) - theirs)
    correlation = float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])
    if not correlation >= MIN_CORRELATION:
        raise BitNetError(
            f"{path}: the logits of {runtime} differ by up to {difference.max():.3g} (correlation {correlation:.4f},"
            f" expected {MIN_CORRELATION}); the file was not kept: please report this with the model's name"
        )
    return Exported(
        path,
        size,
        runtime,
        n_tokens=len(ours),
        largest_difference=float(difference.max()),
        first_difference=float(difference[0].max()),
        correlation=correlation,
        same_choices=int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
    )
