"""Inspection of a model's files without running it: header, tensors, digest, RMS of norms and projections."""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from bitnet_numba.errors import FormatError, ParameterError
from bitnet_numba.files import sha256_file
from bitnet_numba.model.open import model_path
from bitnet_numba.model.weight_rules import LAYERNORM, PROJECTION, Bounds, Ruleset
from bitnet_numba.settings import read_settings
from bitnet_numba.validate.model_files import ModelFiles, StoredTensor, read_model_files
from bitnet_numba.validate.rulesets import NO_RULES, auto_ruleset
from bitnet_numba.validate.statistics import FLOAT_TYPES, root_mean_square

Gate = Literal["none", "auto", "policy"]
GATES: tuple[Gate, ...] = get_args(Gate)


@dataclass(frozen=True, slots=True)
class TensorStatistic:
    """The RMS of a norm or projection; suspicious if it is outside the ruleset."""

    name: str
    kind: str
    rms: float
    status: Literal["ok", "suspicious"]


@dataclass(frozen=True)
class Statistics:
    """The RMS of every norm and projection in the order of the files, and the ruleset's bounds by tensor name."""

    ruleset: Ruleset
    tensors: tuple[TensorStatistic, ...]
    bounds_of: dict[str, Bounds]

    def of(self, kind: str, *, suspicious: bool = False) -> list[TensorStatistic]:
        """Return the tensors of a kind, all or only the suspicious ones."""
        return [t for t in self.tensors if t.kind == kind and (t.status == "suspicious" or not suspicious)]


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection."""

    files: ModelFiles
    sha256: str
    strict: bool  # a suspicious tensor is an error
    statistics: Statistics  # of no tensors unless they were requested
    has_statistics: bool

    @property
    def status(self) -> Literal["ok", "warning", "failed"]:
        """Whether a tensor is suspicious, and whether that is an error."""
        if all(tensor.status == "ok" for tensor in self.statistics.tensors):
            return "ok"
        return "failed" if self.strict else "warning"

    def sizes(self) -> dict[str, dict[str, int]]:
        """Return the number of tensors and their bytes, by role."""
        sizes: dict[str, dict[str, int]] = {}
        for tensor in self.files.tensors.values():
            of_role = sizes.setdefault(_role_name(tensor), {"tensors": 0, "bytes": 0})
            of_role["tensors"] += 1
            of_role["bytes"] += tensor.n_bytes
        return sizes

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; an RMS that is not finite as None."""
        table = [
            {"name": t.name, "role": _role_name(t), "type": t.type, "shape": list(t.shape), "bytes": t.n_bytes}
            for t in self.files.tensors.values()
        ]
        facts: dict[str, Any] = {"model_sha256": self.sha256, "path": str(self.files.path)}
        if self.has_statistics:
            facts |= self._statistics()
        return facts | {
            "architecture": self.files.architecture,
            "header": self.files.header,
            "metadata": _json_ready(self.files.metadata),
            "sizes": self.sizes(),
            "tensor_table": table,
        }

    def _statistics(self) -> dict[str, Any]:
        found = self.statistics
        totals = {
            kind: {"total": len(found.of(kind)), "suspicious": len(found.of(kind, suspicious=True))}
            for kind in (LAYERNORM, PROJECTION)
        }
        tensors = [asdict(each) | {"rms": each.rms if math.isfinite(each.rms) else None} for each in found.tensors]
        verdict = {"strict_mode": self.strict, "tensors": tensors, "status": self.status}
        return {"ruleset": found.ruleset.name, **totals, **verdict}


def inspect_model(
    model: str | Path | None = None,
    *,
    ln_stats: bool = False,
    gate: Gate = "auto",
    policy: Path | None = None,
    policy_key: str | None = None,
    strict: bool | None = None,
) -> Inspection:
    """Inspect a model's files without running it, with at most 1 MiB of a tensor in memory.

    ``ln_stats`` computes the RMS of norms and projections, and compares it with a ruleset: by ``gate`` none, the
    model's family's (``"auto"``), or that of ``policy_key`` (default: the architecture) in the file ``policy``.
    ``strict`` makes a suspicious tensor an error; its default is ``BITNET_STRICT_MODE``.
    """
    if gate not in GATES:
        raise ParameterError(f"gate '{gate}': choose one of {', '.join(GATES)}")
    if (gate == "policy") != (policy is not None) or (policy_key is not None and policy is None):
        raise ParameterError("--gate policy needs --policy FILE, and only it takes --policy and --policy-key")
    is_strict = read_settings().strict if strict is None else strict
    files = read_model_files(model_path(model))
    _refuse_quantized_norms(files)
    ruleset = _ruleset(files, gate, policy, policy_key)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(model_sha256, files)  # hashing leaves the interpreter to others
        statistics = _compute_statistics(files, ruleset) if ln_stats else Statistics(ruleset, (), {})
        return Inspection(files, digest.result(), is_strict, statistics, ln_stats)


def _compute_statistics(files: ModelFiles, ruleset: Ruleset) -> Statistics:
    """Compute the RMS of every norm and projection, and compare it with a ruleset."""
    found, bounds_of = [], {}
    for tensor in files.tensors.values():
        if tensor.kind in (LAYERNORM, PROJECTION):
            rms = root_mean_square(files, tensor)
            bounds = bounds_of[tensor.name] = ruleset.bounds(tensor.kind, tensor.rule_name)
            found.append(TensorStatistic(tensor.name, tensor.kind, rms, "ok" if bounds.holds(rms) else "suspicious"))
    return Statistics(ruleset, tuple(found), bounds_of)


def model_sha256(files: ModelFiles) -> str:
    """Return the digest of the model's file; of several files, that of the lines ``sha256sum`` prints of them."""
    digests = {file.name: sha256_file(file) for file in files.files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _ruleset(files: ModelFiles, gate: Gate, policy: Path | None, policy_key: str | None) -> Ruleset:
    if policy is not None:
        from bitnet_numba.validate.policies import read_ruleset  # here: others need no YAML

        return read_ruleset(policy, files.architecture if policy_key is None else policy_key)
    return auto_ruleset(files) if gate == "auto" else NO_RULES


def _refuse_quantized_norms(files: ModelFiles) -> None:
    for tensor in files.tensors.values():
        if tensor.kind == LAYERNORM and tensor.type not in FLOAT_TYPES:
            raise FormatError(
                f"{tensor.place}: a norm quantized to {tensor.type}; norms are kept in F32: convert the model again"
            )


def _json_ready(value: Any) -> Any:
    """Return a file's values with numbers that JSON does not have as text."""
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_ready(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _role_name(tensor: StoredTensor) -> str:
    return tensor.kind if tensor.role is None else tensor.role.name
