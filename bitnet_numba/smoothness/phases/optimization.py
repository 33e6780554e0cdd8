"""Phase 3: search scale and zero point of each group for the least loss, tensor by tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bitnet_numba.formats.gguf_writer import Progress
from bitnet_numba.smoothness import kernels
from bitnet_numba.smoothness.measure import Adjustment, Adjustments, Plan, Report, parameters_of, quantize
from bitnet_numba.smoothness.quantizer import Doubles, Floats, Parameters
from bitnet_numba.smoothness.tensors import Linear, Model

ITERATIONS = 50
TOLERANCE = 1e-4
CLIP = 1.0  # largest change of ln s and of z/Q
FIRST_STEP, LAST_STEP = 0.16, 0.01  # of ln s, halved where nothing improves
KL_WEIGHT, ENTROPY_WEIGHT = 0.1, 0.05
SAMPLE_WEIGHTS = 1 << 16  # a tensor; the final acceptance reads all of it


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of the loss, unweighted; all are dimensionless."""

    relative_mse: float
    moment_kl: float
    entropy_loss: float

    @property
    def loss(self) -> float:
        """``relative MSE + 0.1 KL + 0.05 (1 - H(codes) / log2(levels))``."""
        return self.relative_mse + KL_WEIGHT * self.moment_kl + ENTROPY_WEIGHT * self.entropy_loss


@dataclass(frozen=True, slots=True)
class Optimized:
    """The search on one tensor: terms on its sample, relative MSE on all of it, and whether the result is used."""

    name: str
    iterations: int
    converged: bool
    before: Terms
    after: Terms
    full_relative_mse: tuple[float, float]
    accepted: bool
    n_weights: int


class _Block:
    """The sample of one group, and what its codes give with the current parameters."""

    def __init__(self, weights: Floats, scale: Floats, zero: Floats, top: int) -> None:
        self.weights, self.top = weights.astype(np.float64), top
        self._weights, self._scale, self._zero = weights, scale, zero
        self.ratio = self.move = 0.0  # of ln s and z/Q
        self.statistics = self.measure(0.0, 0.0)

    def measure(self, ratio: float, move: float) -> Doubles:
        """Return squared error, sum and sum of squares of w', and code counts, for a change of ln s and z/Q."""
        scale = (self._scale * math.exp(ratio)).astype(np.float32)
        zero = np.clip(np.rint(self._zero + self.top * move), 0, self.top).astype(np.float32)
        codes = np.clip(np.rint(self._weights / scale) + zero, 0, self.top)
        back = ((codes - zero) * scale).astype(np.float64)
        counts = np.bincount(codes.astype(np.uint8).reshape(-1), minlength=self.top + 1)
        return np.array([((self.weights - back) ** 2).sum(), back.sum(), (back * back).sum(), *counts])


class _Search:
    """Coordinate search over all groups of a tensor; only steps that decrease the loss are taken."""

    def __init__(self, blocks: list[_Block], top: int) -> None:
        self._blocks, self._top = blocks, top
        self._n = sum(block.weights.size for block in blocks)
        self._mean = math.fsum(float(block.weights.sum()) for block in blocks) / self._n
        self._squares = math.fsum(float((block.weights**2).sum()) for block in blocks)
        self.terms = self._terms([block.statistics for block in blocks])

    def _terms(self, statistics: Sequence[Doubles]) -> Terms:
        errors, total, squares, *counts = np.sum(statistics, axis=0)
        variance = max(self._squares / self._n - self._mean**2, 1e-300)
        mean = total / self._n
        other = max(squares / self._n - mean**2, variance * 1e-12)
        kl = 0.5 * (math.log(variance / other) + (other + (mean - self._mean) ** 2) / variance - 1)
        shares = np.array([count for count in counts if count]) / self._n
        entropy = -float((shares * np.log2(shares)).sum())
        return Terms(float(errors) / self._squares, kl, 1 - entropy / math.log2(self._top + 1))

    def search(self) -> tuple[int, bool]:
        """Return iterations and whether the steps became small."""
        step = FIRST_STEP
        for iteration in range(1, ITERATIONS + 1):
            before = self.terms.loss
            for index in range(len(self._blocks)):
                self._improve(index, step, 0.0)
                self._improve(index, 0.0, 1 / self._top)
            if before - self.terms.loss < TOLERANCE:
                step /= 2
                if step < LAST_STEP:
                    return iteration, True
        return ITERATIONS, False

    def _improve(self, index: int, step: float, zero_step: float) -> None:
        block = self._blocks[index]
        for sign in (1, -1):
            ratio, move = block.ratio + sign * step, block.move + sign * zero_step
            if max(abs(ratio), abs(move)) > CLIP:
                continue
            found = block.measure(ratio, move)
            others = [each.statistics for each in self._blocks]
            terms = self._terms([*others[:index], found, *others[index + 1 :]])
            if terms.loss < self.terms.loss:
                block.ratio, block.move, block.statistics, self.terms = ratio, move, found, terms
                return


def optimized(
    model: Model, plan: Plan, adjustments: Sequence[Adjustments], report: Report | None = None
) -> tuple[Adjustments, list[Optimized]]:
    """Search every tensor, starting from adjusted parameters; return what is used, and what was found."""
    adjust: dict[str, Adjustment] = {}
    records = []
    done, weights = 0, sum(tensor.n_weights for tensor in model.linear.values())
    for name, tensor in model.linear.items():
        parameters = parameters_of(model, plan, tensor, adjustments)
        blocks = _sample(model, tensor, parameters)
        if sum(float((block.weights**2).sum()) for block in blocks):
            found, record = _optimize(model, tensor, parameters, blocks)
            records.append(record)
            if record.accepted:
                adjust[name] = found
        done += tensor.n_weights
        if report is not None:
            report(Progress(name, done, weights))
    return adjust, records


def _optimize(
    model: Model, tensor: Linear, parameters: Parameters, blocks: list[_Block]
) -> tuple[Adjustment, Optimized]:
    search = _Search(blocks, parameters.top)
    before = search.terms
    iterations, converged = search.search()
    found = Adjustment(tuple(math.exp(block.ratio) for block in blocks), tuple(block.move for block in blocks))
    old, new = (_relative_mse(model, tensor, each) for each in (parameters, parameters.with_ratios(*found)))
    record = Optimized(
        tensor.name, iterations, converged, before, search.terms, (old, new), new < old, tensor.n_weights
    )
    return found, record


def _sample(model: Model, tensor: Linear, parameters: Parameters) -> list[_Block]:
    """Take rows at equal distances from every group, some 65,000 weights of the tensor."""
    cuts = parameters.cuts
    rows, columns = cuts.shape
    step = max(1, rows * columns // SAMPLE_WEIGHTS)
    borders = (0, rows) if cuts.by_columns else cuts.borders
    taken = np.concatenate([np.arange(begin, end, step) for begin, end in pairwise(borders)])
    parts = [weights[taken[(taken >= p.start) & (taken < p.stop)] - p.start] for p, weights in model.chunks(tensor)]
    sample, widths = np.concatenate(parts), np.diff(cuts.edges)
    blocks = []
    for group in range(cuts.n_groups):
        own_rows, runs = cuts.members(group)
        inside = np.ones(taken.size, bool) if cuts.by_columns else (taken >= own_rows.start) & (taken < own_rows.stop)
        columns_of = slice(cuts.borders[group], cuts.borders[group + 1]) if cuts.by_columns else slice(columns)
        cells = (values[taken[inside]][:, runs] for values in (parameters.scale, parameters.zero))
        scale, zero = (np.repeat(values, widths[runs], axis=1) for values in cells)
        blocks.append(_Block(sample[inside, columns_of], scale, zero, parameters.top))
    return blocks


def _relative_mse(model: Model, tensor: Linear, parameters: Parameters) -> float:
    """Return squared error over squares of the whole tensor."""
    n_blocks = int(parameters.cuts.blocks[-1]) + 1
    sums = np.empty((tensor.shape[0], n_blocks, kernels.N_SUMS))
    for part, weights in model.chunks(tensor):
        quantize(weights, parameters, part, np.empty(weights.shape, np.uint8), sums[part])
    squares, _, errors = (math.fsum(column) for column in sums.reshape(-1, kernels.N_SUMS).T)
    return errors / squares if squares else 0.0
