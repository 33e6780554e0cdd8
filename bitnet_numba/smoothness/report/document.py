"""The JSON report: its fields in their order, and before and after of what was improved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bitnet_numba.smoothness.chains import (
    Group,
    Jump,
    boundary_statistics,
    jumps,
    patterns,
    smoothness_score,
    violations,
)
from bitnet_numba.smoothness.measure import Measured, Run
from bitnet_numba.smoothness.phases.optimization import ENTROPY_WEIGHT, KL_WEIGHT, Optimized, Terms
from bitnet_numba.smoothness.quality import total
from bitnet_numba.smoothness.tensors import Model
from bitnet_numba.smoothness.timesteps import Activations

N_WORST = 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Timesteps:
    """The chain of a calibration file: groups of timesteps, and the parameters of each timestep."""

    activations: Activations
    chain: list[Group]
    steps: list[Group]

    @classmethod
    def plain(cls, activations: Activations, groups: int) -> "Timesteps":
        """Give each timestep the parameters of its group."""
        chain = activations.chain(activations.steps(), groups)
        return cls(activations, chain, activations.spread(chain))


def document(
    model: Model,
    run: Run,
    facts: Mapping[str, Any],
    timesteps: Timesteps | None,
    seconds: float,
    notes: Sequence[str],
    extras: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the report; every number is finite, None where a value does not exist."""
    threshold, n_groups = facts["smoothness_threshold"], facts["num_time_groups"]
    boundaries = run.boundaries() if timesteps is None else jumps(timesteps.chain)
    found = violations(boundaries, threshold)
    scores = [jump.score for jump in boundaries]
    method = run.plan.method
    quality = _quality(run, model)
    return {
        "model_name": model.name,
        "bit_width": method.bits,
        "num_time_groups": n_groups,
        "smoothness_score": smoothness_score(boundaries),
        "violation_count": len(found),
        "violations": [asdict(each) for each in found],
        "boundary_scores": scores,
        "cosine_similarity": quality.pop("cosine_similarity"),
        "compression_ratio": quality.pop("compression_ratio"),
        "model_size_mb": run.written_bytes / MIB,
        "quantization_time_s": seconds,
        **boundary_statistics(scores),
        "common_violation_patterns": patterns(found, len(boundaries)),
        "quantizer": "ternary" if method.is_ternary else "affine",
        "range": "absmean" if method.is_ternary else method.range,
        "group_size": method.group_size,
        "grouping": facts["grouping"],
        "grouping_reason": facts["grouping_reason"],
        "num_time_groups_effective": len(boundaries) + 1,
        "smoothness_threshold": threshold,
        "group_scales": run.scales() if timesteps is None else [group.scale for group in timesteps.chain],
        "scale_jumps": [jump.scale for jump in boundaries],
        "zero_point_jumps": [jump.zero for jump in boundaries],
        "swap_penalty_db": run.swap_penalties()
        if timesteps is None
        else timesteps.activations.swap_penalties(timesteps.chain),
        **quality,
        **_layers(run, threshold),
        **({} if timesteps is None else {"activations": activation_metrics(timesteps, threshold)}),
        "kept_tensors": [asdict(kept) for kept in model.kept],
        "notes": list(notes),
        **extras,
    }


def _quality(run: Run, model: Model) -> dict[str, Any]:
    each = {name: measured.sums for name, measured in run.measured.items()}
    worst = min(each, key=lambda name: each[name].cosine)
    n_weights = sum(measured.tensor.n_weights for measured in run.measured.values())
    return {
        "cosine_similarity": math.fsum(sums.cosine for sums in each.values()) / len(each),
        "cosine_weighted": math.fsum(each[name].cosine * m.tensor.n_weights for name, m in run.measured.items())
        / n_weights,
        "cosine_min": each[worst].cosine,
        "cosine_min_tensor": worst,
        "sqnr_db": run.sums.sqnr_db,
        "relative_mse": run.sums.relative_mse,
        "compression_ratio": model.source_bytes / run.written_bytes,
        "compression_ratio_fp32_nominal": 32 / run.plan.method.bits,
        "effective_bits_per_weight": 8 * run.quantized_bytes / n_weights,
        "source_bytes": model.source_bytes,
        "written_bytes": run.written_bytes,
        "quantized_tensor_count": len(each),
        "quantized_weights": n_weights,
    }


def _layers(run: Run, threshold: float) -> dict[str, Any]:
    """Describe every tensor, and every role where chains go through the layers."""
    by_depth = run.plan.grouping == "depth"
    chains = [_chain_entry(chain.name, jumps(chain.groups), threshold) for chain in run.chains]
    layers = [_layer_entry(measured, threshold, has_chain=not by_depth) for measured in run.measured.values()]
    ranked = chains if by_depth else layers
    worst = sorted(ranked, key=lambda entry: (entry["smoothness_score"], entry.get("cosine_similarity", 0.0)))
    return {
        "layer_violation_count": sum(len(entry["violations"]) for entry in chains),
        "worst_layers": [entry["name"] for entry in worst[:N_WORST]],
        **({"per_role": chains} if by_depth else {}),
        "per_layer": layers,
    }


def _chain_entry(name: str, boundaries: Sequence[Jump], threshold: float) -> dict[str, Any]:
    return {
        "name": name,
        "scale_jumps": [jump.scale for jump in boundaries],
        "zero_point_jumps": [jump.zero for jump in boundaries],
        "smoothness_score": smoothness_score(boundaries),
        "violations": [asdict(each) for each in violations(boundaries, threshold)],
    }


def _layer_entry(measured: Measured, threshold: float, *, has_chain: bool) -> dict[str, Any]:
    sums = measured.sums
    return {
        **_chain_entry(measured.tensor.name, jumps(measured.groups) if has_chain else [], threshold),
        "weights": measured.tensor.n_weights,
        "cosine_similarity": sums.cosine,
        "sqnr_db": sums.sqnr_db,
        "relative_mse": sums.relative_mse,
        "native_ternary": measured.is_native,
    }


# ---- before and after ------------------------------------------------------------------------------------------------
def key_metrics(run: Run, threshold: float) -> dict[str, Any]:
    """Return the metrics that Phase 2 and 3 can change."""
    cosines = [measured.sums.cosine for measured in run.measured.values()]
    return _chain_metrics(run.boundaries(), threshold) | {
        "cosine_similarity": math.fsum(cosines) / len(cosines),
        "cosine_min": min(cosines),
        "sqnr_db": run.sums.sqnr_db,
        "relative_mse": run.sums.relative_mse,
    }


def activation_metrics(timesteps: Timesteps, threshold: float) -> dict[str, Any]:
    """Return the metrics of a chain of timesteps, whose activations are quantized with its parameters."""
    sums = total(timesteps.activations.sums(timesteps.steps))
    return _chain_metrics(jumps(timesteps.chain), threshold) | {
        "timesteps": len(timesteps.steps),
        "cosine_similarity": sums.cosine,
        "sqnr_db": sums.sqnr_db,
        "relative_mse": sums.relative_mse,
    }


def _chain_metrics(boundaries: Sequence[Jump], threshold: float) -> dict[str, Any]:
    return {
        "smoothness_score": smoothness_score(boundaries),
        "violation_count": len(violations(boundaries, threshold)),
        **boundary_statistics([jump.score for jump in boundaries]),
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, and the difference of every metric; None where one of them does not exist."""
    delta = {
        name: None if before[name] is None or after[name] is None else after[name] - before[name] for name in before
    }
    return {"before": dict(before), "after": dict(after), "delta": delta}


def optimization_section(records: Sequence[Optimized]) -> dict[str, Any]:
    """Describe the searches: means over tensors, weighted by their sizes, and every tensor."""
    weights = sum(each.n_weights for each in records)
    before, after = (
        {
            name: math.fsum(_terms(getattr(each, when))[name] * each.n_weights for each in records) / weights
            for name in ("relative_mse", "moment_kl", "entropy_loss", "loss")
        }
        if records
        else {}
        for when in ("before", "after")
    )
    return {
        "iterations": max((each.iterations for each in records), default=0),
        "converged": all(each.converged for each in records),
        "loss": f"relative_mse + {KL_WEIGHT} moment_kl + {ENTROPY_WEIGHT} entropy_loss, on a sample of each tensor",
        "terms_before": before,
        "terms_after": after,
        "tensors": [
            {
                "name": each.name,
                "iterations": each.iterations,
                "converged": each.converged,
                "accepted": each.accepted,
                "terms_before": _terms(each.before),
                "terms_after": _terms(each.after),
                "full_relative_mse_before": each.full_relative_mse[0],
                "full_relative_mse_after": each.full_relative_mse[1],
            }
            for each in records
        ],
    }


def _terms(terms: Terms) -> dict[str, float]:
    return asdict(terms) | {"loss": terms.loss}
