"""The quantizer: b bits with a zero point, or ternary by absmean; how the parameters of a tensor are found."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError
from bitnet_numba.formats.packing.masters import exact_ternary
from bitnet_numba.smoothness import kernels
from bitnet_numba.smoothness.chains import Group, cuts
from bitnet_numba.smoothness.tensors import Linear, Model

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

_F16_NORMAL = 2.0**-14, 65504.0


@dataclass(frozen=True, slots=True)
class Method:
    """How weights become codes.

    ``bits`` a code; ``is_ternary`` for -1, 0 and +1 times the mean magnitude, stored plus 1; ``range`` is ``minmax``
    or ``mse``; ``group_size`` columns share a scale, None for one scale a group of the chain.
    """

    bits: int = 2
    is_ternary: bool = False
    range: str = "minmax"
    group_size: int | None = None

    @property
    def top(self) -> int:
        """The largest code, Q."""
        return 2 if self.is_ternary else (1 << self.bits) - 1


@dataclass(frozen=True, slots=True)
class Cuts:
    """How a tensor is cut: ``n_groups`` contiguous blocks of rows or columns, and runs of columns with one scale each.

    ``edges``, int64[runs + 1], are columns; ``blocks``, int64[runs], is the column block of each run.
    """

    shape: tuple[int, int]
    by_columns: bool
    borders: tuple[int, ...]  # of the groups, in rows or columns
    edges: Ints
    blocks: Ints

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.borders) - 1

    @property
    def n_runs(self) -> int:
        """Scales in a row."""
        return self.blocks.size

    def per_cell(self, values: Sequence[float] | Doubles) -> Doubles:
        """Spread a value of each group over rows and runs, float64[rows, runs]."""
        rows = self.shape[0]
        each = np.asarray(values, np.float64)
        if self.by_columns:
            return np.broadcast_to(each[self.blocks], (rows, self.n_runs))
        spread = np.repeat(each, np.diff(self.borders))
        return np.broadcast_to(spread[:, np.newaxis], (rows, self.n_runs))

    def members(self, group: int) -> tuple[slice, slice]:
        """Return rows and runs of a group."""
        begin, end = self.borders[group], self.borders[group + 1]
        if not self.by_columns:
            return slice(begin, end), slice(None)
        first, last = np.searchsorted(self.blocks, (group, group + 1))
        return slice(None), slice(int(first), int(last))


def cut(shape: tuple[int, int], groups: int, group_size: int | None, *, by_columns: bool = False) -> Cuts:
    """Cut a tensor into at most ``groups`` blocks of rows or columns, none of them empty."""
    borders = cuts(shape[1] if by_columns else shape[0], groups)
    column_borders = borders if by_columns else [0, shape[1]]
    edges: list[int] = []
    blocks: list[int] = []
    for block, (begin, end) in enumerate(pairwise(column_borders)):
        starts = range(begin, end, group_size or end - begin)
        edges += starts
        blocks += [block] * len(starts)
    return Cuts(shape, by_columns, tuple(borders), np.array([*edges, shape[1]], np.int64), np.array(blocks, np.int64))


@dataclass(frozen=True, slots=True)
class Parameters:
    """Scale, zero point and lower end of the range of each cell, float32[rows, runs] each.

    ``is_shared`` where all cells of a group have the same; ``scale_dtype`` is that of the stored scales.
    """

    cuts: Cuts
    top: int
    scale: Floats
    zero: Floats
    low: Floats
    is_shared: bool
    scale_dtype: type[np.float32 | np.float16] = np.float32
    is_native: bool = False  # weights that were ternary already: codes and scale are the source's

    def groups(self, *, is_ternary: bool = False) -> list[Group]:
        """Return scale and z/Q of each group: geometric and plain mean over its cells, weighted by element count."""
        widths = np.diff(self.cuts.edges).astype(np.float64)
        found = []
        for group in range(self.cuts.n_groups):
            rows, runs = self.cuts.members(group)
            scale, zero = self.scale[rows, runs].astype(np.float64), self.zero[rows, runs].astype(np.float64)
            width = np.broadcast_to(widths[runs], scale.shape)
            total = float(width.sum())
            if self.is_shared:
                mean, offset = float(scale[0, 0]), float(zero[0, 0])
            else:
                mean = math.exp(float((np.log(scale) * width).sum()) / total)
                offset = float((zero * width).sum()) / total
            found.append(Group(mean, 0.0 if is_ternary else offset / self.top, total))
        return found

    def with_ratios(self, ratios: Sequence[float], zeros: Sequence[float] | None = None) -> "Parameters":
        """Multiply the scale of each group by its ratio, then round the zero points again.

        ``zeros`` moves the zero point of each group by that many units of Q; None rounds ``-low / s`` again.
        """
        ratio = self.cuts.per_cell(ratios)
        scale = self._stored(self.scale * ratio)
        if zeros is None:
            moved = -self.low.astype(np.float64) / scale if not self.is_native else self.zero.astype(np.float64)
        else:
            moved = self.zero + self.top * self.cuts.per_cell(zeros)
        zero = np.clip(np.rint(moved), 0, self.top).astype(np.float32)
        return replace(self, scale=scale, zero=zero)

    def _stored(self, scale: Doubles) -> Floats:
        with np.errstate(over="ignore", under="ignore"):
            stored = scale.astype(self.scale_dtype).astype(np.float32)
        ok = np.isfinite(stored) & (stored > 0)
        return np.where(ok, stored, self.scale)


def affine(low: Floats, high: Floats, top: int) -> tuple[Floats, Floats]:
    """Return scales and zero points of ranges that include 0; 1 and 0 for weights that are all zero.

    ``s = (high - low) / top`` and ``z = clip(rint(-low / s), 0, top)``, in float64, s rounded to float32.
    """
    scale = ((high.astype(np.float64) - low.astype(np.float64)) / top).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    return scale, zero_points(low, scale, top)


def zero_points(low: Floats, scale: Floats, top: int) -> Floats:
    """Return ``clip(rint(-low / s), 0, top)``."""
    return np.clip(np.rint(-low.astype(np.float64) / scale), 0, top).astype(np.float32)


# ---- parameters of a tensor ------------------------------------------------------------------------------------------
def find_parameters(model: Model, tensor: Linear, cuts: Cuts, method: Method) -> Parameters:
    """Read a tensor and return its parameters.

    Raises FormatError, with the tensor's name, for NaN and infinity.
    """
    if method.is_ternary:
        return _ternary(model, tensor, cuts)
    low, high = _ranges(model, tensor, cuts)
    is_shared = method.group_size is None
    if is_shared:
        low, high = _of_groups(cuts, low, np.min), _of_groups(cuts, high, np.max)
    if method.range == "mse":
        ratio = _shared_ratios(model, tensor, cuts, low, high, method.top) if is_shared else None
        if ratio is None:
            ratio = _run_ratios(model, tensor, cuts, low, high, method.top)
        low, high = (low * ratio).astype(np.float32), (high * ratio).astype(np.float32)
    scale, zero = affine(low, high, method.top)
    if is_shared:
        return Parameters(cuts, method.top, scale, zero, low, is_shared)
    smallest, largest = float(scale.min()), float(scale.max())
    if _F16_NORMAL[0] <= smallest and largest <= _F16_NORMAL[1]:
        scale = scale.astype(np.float16).astype(np.float32)
        return Parameters(cuts, method.top, scale, zero_points(low, scale, method.top), low, is_shared, np.float16)
    return Parameters(cuts, method.top, scale, zero, low, is_shared)


def _ranges(model: Model, tensor: Linear, cuts: Cuts) -> tuple[Floats, Floats]:
    rows = tensor.shape[0]
    low, high = np.empty((rows, cuts.n_runs), np.float32), np.empty((rows, cuts.n_runs), np.float32)
    bad = np.zeros(rows, np.uint8)
    for part, weights in model.chunks(tensor):
        kernels.ranges(weights, weights.view(np.uint32), cuts.edges, low[part], high[part], bad[part])
        check_finite(model, tensor, not bad[part].any())
    return low, high


def check_finite(model: Model, tensor: Linear, is_finite: bool) -> None:
    """Refuse a tensor with NaN or infinity."""
    if not is_finite:
        raise FormatError(f"{model.path}: tensor {tensor.name!r} holds NaN or infinity; get the file again")


def _of_groups(cuts: Cuts, values: Floats, reduce: object) -> Floats:
    """Give all cells of a group the least or greatest value of the group."""
    assert callable(reduce)
    return cuts.per_cell([float(reduce(values[cuts.members(group)])) for group in range(cuts.n_groups)]).astype(
        np.float32
    )


def _ternary(model: Model, tensor: Linear, cuts: Cuts) -> Parameters:
    native = native_scale(model, tensor)
    if native is None:
        sums = np.empty(tensor.shape[0])
        for part, weights in model.chunks(tensor):
            kernels.magnitudes(weights, sums[part])
        check_finite(model, tensor, bool(np.isfinite(sums).all()))
        scale = np.float32(math.fsum(sums) / tensor.n_weights)
    else:
        scale = native
    cell = (tensor.shape[0], cuts.n_runs)
    scale = scale if scale > 0 else np.float32(1)
    full = np.full(cell, scale, np.float32)
    return Parameters(cuts, 2, full, np.ones(cell, np.float32), -full, True, is_native=native is not None)


def native_scale(model: Model, tensor: Linear) -> np.float32 | None:
    """Return the scale of weights that are -1, 0 or +1 times one scale already; None for others."""
    scale = None
    for _, weights in model.chunks(tensor):
        if not weights.any():
            continue
        exact = exact_ternary(weights)
        if exact is None or scale not in (None, exact[1]):
            return None
        scale = exact[1]
    return scale


# ---- ranges of the least squared error -------------------------------------------------------------------------------
def _run_ratios(model: Model, tensor: Linear, cuts: Cuts, low: Floats, high: Floats, top: int) -> Doubles:
    ratio = np.empty(low.shape)
    for part, weights in model.chunks(tensor):
        kernels.clip_runs(weights, low[part], high[part], float(top), cuts.edges, ratio[part])
    return ratio


def _shared_ratios(model: Model, tensor: Linear, cuts: Cuts, low: Floats, high: Floats, top: int) -> Doubles:
    """Search each group's clip ratio: coarse candidates first, then fine ones around the best."""
    ends = [(float(low[cuts.members(g)][0, 0]), float(high[cuts.members(g)][0, 0])) for g in range(cuts.n_groups)]
    coarse = kernels.COARSE_RATIOS.tolist()
    best = _least(model, tensor, cuts, ends, [coarse] * cuts.n_groups, top)
    fine = [[min(ratio * step, 1.0) for step in kernels.FINE_STEPS.tolist()] for ratio in best]
    return cuts.per_cell(_least(model, tensor, cuts, ends, fine, top))


def _least(
    model: Model,
    tensor: Linear,
    cuts: Cuts,
    ends: Sequence[tuple[float, float]],
    candidates: Sequence[Sequence[float]],
    top: int,
) -> list[float]:
    """Return each group's candidate of the least squared error."""
    errors: list[list[Doubles]] = [[] for _ in ends]
    for part, weights in model.chunks(tensor):
        for group, (begin, end, view) in enumerate(group_views(cuts, part, weights)):
            if begin >= end:
                continue
            ratios = np.array(candidates[group])
            low, high = (np.array([np.float32(each * r) for r in ratios], np.float32) for each in ends[group])
            scale, zero = affine(low, high, top)
            found = np.empty((view.shape[0], ratios.size))
            kernels.clip_errors(view, scale, zero, float(top), found)
            errors[group].append(found)
    chosen = []
    for group, parts in enumerate(errors):
        sums = [math.fsum(column) for column in np.concatenate(parts).T]
        chosen.append(float(candidates[group][int(np.argmin(sums))]))
    return chosen


def group_views(cuts: Cuts, part: slice, weights: Floats) -> Iterable[tuple[int, int, Floats]]:
    """Yield for each group its first and last row or column in some rows of a tensor, and those weights."""
    for begin, end in zip(cuts.borders, cuts.borders[1:], strict=False):
        if cuts.by_columns:
            yield begin, end, np.ascontiguousarray(weights[:, begin:end])
        else:
            first, last = max(begin, part.start) - part.start, min(end, part.stop) - part.start
            yield first, last, weights[max(first, 0) : max(last, 0)]
