"""Quantize every linear weight of a model once: pack its codes, and measure errors, groups and swap penalties."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bitnet_numba.formats.gguf_writer import Progress
from bitnet_numba.smoothness import kernels
from bitnet_numba.smoothness.chains import Group, Jump, cuts, joined, jumps, merged
from bitnet_numba.smoothness.packed import PackedWriter
from bitnet_numba.smoothness.quality import Sums, penalty_db, total
from bitnet_numba.smoothness.quantizer import Codes, Cuts, Doubles, Floats, Method, Parameters, cut, find_parameters
from bitnet_numba.smoothness.tensors import Linear, Model

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is quantized: the method, and the groups of the chain.

    ``grouping`` is ``rows``, ``columns`` or ``depth``: blocks of each tensor, or runs of layers.
    """

    method: Method
    grouping: str
    groups: int

    def cuts(self, tensor: Linear) -> Cuts:
        """Return how a tensor is cut."""
        groups = 1 if self.grouping == "depth" else self.groups
        return cut(tensor.shape, groups, self.method.group_size, by_columns=self.grouping == "columns")


class Adjustment(NamedTuple):
    """A change of a tensor's parameters: factors of the scales of its groups, and moves of z/Q.

    ``zeros`` is None where z is rounded again for the new scale.
    """

    ratios: tuple[float, ...]
    zeros: tuple[float, ...] | None = None


Adjustments = Mapping[str, Adjustment]


@dataclass(frozen=True, slots=True)
class Measured:
    """What quantizing one tensor gave: per group its parameters, its sums, and those with a neighbour's parameters."""

    tensor: Linear
    groups: list[Group]
    own: list[Sums]
    with_left: list[Sums]
    with_right: list[Sums]
    is_native: bool

    @property
    def sums(self) -> Sums:
        """Sums over the whole tensor."""
        return total(self.own)


class Chain(NamedTuple):
    """The groups of one tensor, or of one role through the layers; members are tensors and their groups."""

    name: str
    members: list[list[tuple[str, int]]]
    groups: list[Group]


def chains_of(plan: Plan, parts: Mapping[str, tuple[Linear, list[Group]]]) -> list[Chain]:
    """Build the chains from the groups of all tensors: one a tensor, or one a role in the order of the layers."""
    if plan.grouping != "depth":
        return [
            Chain(name, [[(name, index)] for index in range(len(groups))], groups)
            for name, (_, groups) in parts.items()
        ]
    roles: dict[str, list[Linear]] = {}
    for tensor, _ in parts.values():
        roles.setdefault(tensor.role, []).append(tensor)
    chains = []
    for role, tensors in roles.items():
        tensors.sort(key=lambda tensor: tensor.layer or 0)
        borders = cuts(len(tensors), plan.groups)
        members = [[(tensor.name, 0) for tensor in tensors[begin:end]] for begin, end in pairwise(borders)]
        groups = [joined([parts[name][1][index] for name, index in run]) for run in members]
        chains.append(Chain(role, members, groups))
    return chains


class Run:
    """One pass of quantization over a model."""

    def __init__(self, plan: Plan, measured: Mapping[str, Measured], written: tuple[int, int]) -> None:
        self.plan = plan
        self.measured = measured
        self.written_bytes, self.quantized_bytes = written
        parts = {name: (each.tensor, each.groups) for name, each in measured.items()}
        self.chains = chains_of(plan, parts)

    def boundaries(self) -> list[Jump]:
        """Return the jumps of the model: the mean of all chains at each boundary, weighted by parameters."""
        return merged([jumps(chain.groups) for chain in self.chains], self._weights())

    def scales(self) -> list[float]:
        """Return the scale of each group of the merged chain: the mean of all, relative to each chain's own mean."""
        relative = []
        for chain in self.chains:
            mean = joined(chain.groups).scale
            relative.append([group.scale / mean for group in chain.groups])
        found = []
        for index in range(max(map(len, relative), default=0)):
            there = [(c[index], w) for c, w in zip(relative, self._weights(), strict=True) if index < len(c)]
            found.append(math.fsum(value * weight for value, weight in there) / math.fsum(w for _, w in there))
        return found

    def swap_penalties(self) -> list[float | None]:
        """Return what each boundary costs in dB if parameters lag by one group; None where it cannot be said."""
        found: list[float | None] = []
        for boundary in range(len(self.boundaries())):
            there = [
                (self._penalty(chain, boundary), weight)
                for chain, weight in zip(self.chains, self._weights(), strict=True)
                if boundary + 1 < len(chain.groups)
            ]
            known = [(value, weight) for value, weight in there if value is not None]
            if len(known) < len(there):
                found.append(None)
                continue
            found.append(math.fsum(v * w for v, w in known) / math.fsum(w for _, w in known))
        return found

    @property
    def sums(self) -> Sums:
        """Sums over all quantized weights."""
        return total(each.sums for each in self.measured.values())

    def _weights(self) -> list[float]:
        return [math.fsum(group.weight for group in chain.groups) for chain in self.chains]

    def _penalty(self, chain: Chain, boundary: int) -> float | None:
        left, right = chain.members[boundary], chain.members[boundary + 1]
        costs = [
            penalty_db(self._total(left, "own"), self._total(left, "with_right")),
            penalty_db(self._total(right, "own"), self._total(right, "with_left")),
        ]
        known = [cost for cost in costs if cost is not None]
        return math.fsum(known) / 2 if len(known) == 2 else None

    def _total(self, members: Sequence[tuple[str, int]], kind: str) -> Sums:
        return total(getattr(self.measured[name], kind)[index] for name, index in members)


# ---- one pass --------------------------------------------------------------------------------------------------------
def run(
    model: Model, plan: Plan, stage: Path, adjustments: Sequence[Adjustments] = (), report: Report | None = None
) -> Run:
    """Quantize all linear weights, write them and the kept tensors to the folder ``stage``, and measure.

    Raises FormatError for NaN or infinity, BitNetError if the folder cannot be written.
    """
    writer = PackedWriter(stage, plan.method)
    neighbours = _chains_by_depth(model, plan, adjustments) if plan.grouping == "depth" else {}
    done, weights = 0, sum(tensor.n_weights for tensor in model.linear.values())
    measured = {}
    for name, tensor in model.linear.items():
        parameters = parameters_of(model, plan, tensor, adjustments)
        groups = parameters.groups(is_ternary=plan.method.is_ternary)
        left, right = neighbours.get(name) or _own_neighbours(groups)
        packed, own, lagging = _quantize(
            model, tensor, parameters, [_lag(parameters, groups, n) for n in (left, right)]
        )
        writer.add_linear(name, packed, parameters)
        measured[name] = Measured(tensor, groups, own, lagging[0], lagging[1], parameters.is_native)
        done += tensor.n_weights
        if report is not None:
            report(Progress(name, done, weights))
    for kept in model.kept:
        entry = model.checkpoint.tensors[kept.name]
        raw = model.checkpoint.raw(kept.name).reshape(-1).view(np.uint8)
        writer.add(kept.name, entry.dtype, entry.shape, raw)
        if entry.n_bytes >= 1 << 20:
            writer.flush()
            model.checkpoint.forget_pages()
    writer.finish()
    return Run(plan, measured, (writer.n_bytes, writer.quantized_bytes))


def parameters_of(model: Model, plan: Plan, tensor: Linear, adjustments: Sequence[Adjustments] = ()) -> Parameters:
    """Return a tensor's parameters, adjusted."""
    parameters = find_parameters(model, tensor, plan.cuts(tensor), plan.method)
    for adjust in adjustments:
        if tensor.name in adjust:
            parameters = parameters.with_ratios(*adjust[tensor.name])
    return parameters


Neighbours = list[Group | None]  # of each group of a tensor


def _own_neighbours(groups: Sequence[Group]) -> tuple[Neighbours, Neighbours]:
    return [None, *groups[:-1]], [*groups[1:], None]


def _chains_by_depth(
    model: Model, plan: Plan, adjustments: Sequence[Adjustments]
) -> dict[str, tuple[Neighbours, Neighbours]]:
    """Return the neighbours of every tensor's one group in the chain of its role."""
    parts = {}
    for name, tensor in model.linear.items():
        groups = parameters_of(model, plan, tensor, adjustments).groups(is_ternary=plan.method.is_ternary)
        parts[name] = tensor, groups
    found: dict[str, tuple[Neighbours, Neighbours]] = {}
    for chain in chains_of(plan, parts):
        left, right = _own_neighbours(chain.groups)
        for index, members in enumerate(chain.members):
            own = chain.groups[index]
            for name, _ in members:
                mine = parts[name][1][0]
                found[name] = (_relative(left[index], own, mine), _relative(right[index], own, mine))
    return found


def _relative(neighbour: Group | None, run_group: Group, mine: Group) -> Neighbours:
    """Move a tensor's own parameters as those of its run move to the neighbouring run."""
    if neighbour is None:
        return [None]
    scale = neighbour.scale if mine.scale == run_group.scale else mine.scale * (neighbour.scale / run_group.scale)
    return [Group(scale, mine.zero + neighbour.zero - run_group.zero, mine.weight)]


def _lag(parameters: Parameters, groups: Sequence[Group], neighbours: Neighbours) -> Parameters | None:
    """Return the parameters with which each group would have those of its neighbour; None if no group has one."""
    if not any(neighbours):
        return None
    pairs = [(own, other or own) for own, other in zip(groups, neighbours, strict=True)]
    return parameters.with_ratios(
        [other.scale / own.scale for own, other in pairs], [other.zero - own.zero for own, other in pairs]
    )


def _quantize(
    model: Model, tensor: Linear, parameters: Parameters, lagging: Sequence[Parameters | None]
) -> tuple[Codes, list[Sums], list[list[Sums]]]:
    """Return packed codes, and the sums of each group with its own parameters and with each of the others."""
    (rows, columns), bits = tensor.shape, 2 if parameters.top < 4 else (parameters.top + 1).bit_length() - 1
    packed = np.empty((rows, -(-columns * bits // 8)), np.uint8)
    n_blocks = int(parameters.cuts.blocks[-1]) + 1
    variants = [parameters, *(each for each in lagging if each is not None)]
    sums = np.empty((len(variants), rows, n_blocks, kernels.N_SUMS))
    for part, weights in model.chunks(tensor):
        codes = np.empty(weights.shape, np.uint8)
        for index, variant in reversed(list(enumerate(variants))):  # its own parameters last: those codes are kept
            quantize(weights, variant, part, codes, sums[index, part])
        kernels.pack(codes, bits, packed[part])
    found = [[_of_group(parameters.cuts, each, group) for group in range(parameters.cuts.n_groups)] for each in sums]
    others = iter(found[1:])
    return packed, found[0], [found[0] if each is None else next(others) for each in lagging]


def quantize(weights: Floats, parameters: Parameters, part: slice, codes: Codes, sums: Doubles) -> None:
    """Quantize some rows of a tensor; see :func:`bitnet_numba.smoothness.kernels.quantize`."""
    scale, zero = (np.ascontiguousarray(values[part]) for values in (parameters.scale, parameters.zero))
    cuts, top = parameters.cuts, float(parameters.top)
    kernels.quantize(weights, scale, zero, top, cuts.edges, cuts.blocks, codes, sums)


def _of_group(cuts: Cuts, sums: Doubles, group: int) -> Sums:
    """Add the rows of a group, or its column block, exactly rounded."""
    if cuts.by_columns:
        mine = sums[:, group]
    else:
        mine = sums[cuts.borders[group] : cuts.borders[group + 1]].reshape(-1, kernels.N_SUMS)
    return Sums(*(math.fsum(column) for column in mine.T))
