"""Activation ranges by diffusion timestep, from calibration samples: one JSON object a line."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, excerpt
from bitnet_numba.formats.json_file import unique_keys
from bitnet_numba.formats.mapping import map_file
from bitnet_numba.smoothness.chains import Group, cuts, joined
from bitnet_numba.smoothness.quality import Sums, penalty_db, total

MAX_BYTES = 1 << 30
KEYS = {"data", "timestep", "shape"}
_RETRY = "write the calibration file again"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Activations:
    """The samples of a calibration file by timestep, ascending."""

    timesteps: list[int]
    values: list[Floats]
    top: int  # Q

    def steps(self) -> list[Group]:
        """Return scale ``(max - min) / Q`` and zero point ``-min / s`` of each timestep, 0 being in every range."""
        found = []
        for values in self.values:
            low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
            scale = (high - low) / self.top
            found.append(Group(scale, -low / scale / self.top, values.size) if scale else Group(1.0, 0.0, values.size))
        return found

    def chain(self, steps: Sequence[Group], groups: int) -> list[Group]:
        """Join consecutive timesteps to at most ``groups`` groups."""
        borders = cuts(len(steps), groups)
        return [joined(steps[begin:end]) for begin, end in pairwise(borders)]

    def sums(self, steps: Sequence[Group]) -> list[Sums]:
        """Quantize each timestep's activations with the parameters given for it."""
        return [self._sums(values, step) for values, step in zip(self.values, steps, strict=True)]

    def spread(self, chain: Sequence[Group]) -> list[Group]:
        """Give each timestep the parameters of its group."""
        borders = cuts(len(self.values), len(chain))
        return [chain[g] for g in range(len(chain)) for _ in range(borders[g], borders[g + 1])]

    def swap_penalties(self, chain: Sequence[Group]) -> list[float | None]:
        """Return the cost of each boundary in dB if parameters lag by one group."""
        borders = cuts(len(self.values), len(chain))

        def with_parameters(index: int, group: Group) -> Sums:
            return total(self._sums(values, group) for values in self.values[borders[index] : borders[index + 1]])

        found: list[float | None] = []
        for b in range(len(chain) - 1):
            costs = [
                penalty_db(with_parameters(own, chain[own]), with_parameters(own, chain[other]))
                for own, other in ((b, b + 1), (b + 1, b))
            ]
            known = [cost for cost in costs if cost is not None]
            found.append(math.fsum(known) / 2 if len(known) == 2 else None)
        return found

    def _sums(self, values: Floats, group: Group) -> Sums:
        x = values.astype(np.float64)
        zero = np.clip(np.rint(group.zero * self.top), 0, self.top)
        back = (np.clip(np.rint(x / group.scale) + zero, 0, self.top) - zero) * group.scale
        return Sums(float((x * x).sum()), float((back * back).sum()), float(((x - back) ** 2).sum()))


def read_calibration(path: Path, top: int) -> Activations:
    """Read samples: on each line ``{"data": [...], "timestep": t, "shape": [...]}``.

    Raises FormatError, with the line, for anything else: other keys, numbers that are not finite, a shape that the data
    do not fill, no samples at all.
    """
    contents = map_file(path)
    if contents.size > MAX_BYTES:
        raise FormatError(f"{path}: has {contents.size:,} bytes, at most {MAX_BYTES:,} are read; use fewer samples")
    found: dict[int, list[Floats]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                timestep, values = _sample(line, f"{path}: line {number}")
                found.setdefault(timestep, []).append(values)
    if not found:
        raise FormatError(f"{path}: no samples; {_RETRY}")
    timesteps = sorted(found)
    return Activations(timesteps, [np.concatenate(found[step]) for step in timesteps], top)


def _sample(line: bytes, place: str) -> tuple[int, Floats]:
    try:
        sample = json.loads(line.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{place}: not JSON: {str(error)[:100]}; {_RETRY}") from error
    if not isinstance(sample, dict) or sample.keys() != KEYS:
        raise FormatError(f"{place}: expected an object of data, timestep and shape; {_RETRY}")
    timestep, shape, data = sample["timestep"], sample["shape"], sample["data"]
    if type(timestep) is not int or timestep < 0:
        raise FormatError(f"{place}: timestep {excerpt(timestep)} is not a whole number of at least 0; {_RETRY}")
    if not isinstance(shape, list) or not shape or any(type(n) is not int or n < 1 for n in shape):
        raise FormatError(f"{place}: shape {excerpt(shape)} is not a list of whole numbers above 0; {_RETRY}")
    if not isinstance(data, list) or any(type(value) not in (int, float) for value in data):
        raise FormatError(f"{place}: data is not a list of numbers; {_RETRY}")
    if len(data) != math.prod(shape):
        raise FormatError(f"{place}: {len(data):,} numbers do not fill the shape {excerpt(shape)}; {_RETRY}")
    return timestep, _as_floats(data, place)


def _as_floats(data: list[Any], place: str) -> Floats:
    try:
        with np.errstate(over="ignore"):
            values = np.array(data, np.float64).astype(np.float32)
    except OverflowError:
        values = np.array([np.inf], np.float32)
    if not np.isfinite(values).all():
        raise FormatError(f"{place}: a number is not finite as float32; {_RETRY}")
    return values


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
