"""Establish the baseline metrics of a model: plan, quantize, improve where asked, and build the report's document."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.files import check_target
from bitnet_numba.formats.json_file import read_json_if_present
from bitnet_numba.smoothness.accuracy import Accuracy, measure_accuracy, read_text
from bitnet_numba.smoothness.jit import use_threads
from bitnet_numba.smoothness.measure import Adjustments, Plan, Report, Run, run
from bitnet_numba.smoothness.packed import check_output, commit, new_stage
from bitnet_numba.smoothness.phases.optimization import optimized
from bitnet_numba.smoothness.phases.smoothing import blended, smoothed
from bitnet_numba.smoothness.quantizer import Method
from bitnet_numba.smoothness.report.document import (
    Timesteps,
    activation_metrics,
    changes,
    document,
    key_metrics,
    optimization_section,
)
from bitnet_numba.smoothness.tensors import Model
from bitnet_numba.smoothness.timesteps import read_calibration

GROUPINGS = ("auto", "timesteps", "depth", "rows", "columns")
NO_CHAIN = "No thermodynamic metrics in result"
NOTHING_TO_DO = "nothing to do: the scale of ternary weights is the one they were trained with"
DIFFUSION_NOTE = (
    "a masked-diffusion model: its network takes no timestep input, so the groups here are not its diffusion steps"
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SmoothnessRequest:
    """What is measured, and where it is written; the fields are the options of ``bitnet-numba smoothness``."""

    model: Path
    output: Path
    bit_width: int | None = None  # 2, or ternary for a model whose weights are packed ternary codes
    ternary: bool = False
    num_time_groups: int = 4
    group_size: int | None = None
    smoothness_threshold: float = 0.3
    grouping: str = "auto"
    calibration: Path | None = None
    range: str = "minmax"
    smooth: str | None = None
    window: int = 1
    strength: float = 1.0
    max_sqnr_drop: float = 0.1
    optimize: bool = False
    text: Path | None = None
    files: tuple[Path, ...] = ()  # reports and log, which must be writable


def establish(request: SmoothnessRequest, report: Report | None = None, say: Say = lambda _: None) -> dict[str, Any]:
    """Quantize a model, write its packed form to ``request.output``, and return the report's document.

    ``report`` is called after each tensor of each pass, ``say`` with each event worth a line of the log. If anything
    is raised, the output folder is as it was.

    Raises
    ------
    ParameterError
        If options contradict each other.
    BitNetError
        If the model is missing, holds no linear weights, NaN or infinity, or a file cannot be read or written.
    """
    _check(request)
    check_output(request.output, request.model)
    for file in request.files:
        check_target(file)
    use_threads()
    model = Model(request.model)
    try:
        return _Session(request, model, report, say).document()
    finally:
        model.close()


def _check(request: SmoothnessRequest) -> None:
    if request.ternary and (request.bit_width or request.group_size or request.range != "minmax"):
        raise ParameterError("ternary has one scale a tensor; leave out bit width, group size and range")
    if request.grouping == "timesteps" and request.calibration is None:
        raise ParameterError("grouping timesteps needs timestep-tagged samples; name them with --calibration")
    if request.calibration is not None and request.grouping not in ("auto", "timesteps"):
        raise ParameterError(f"grouping {request.grouping} reads no calibration; leave --calibration or --grouping out")
    for name in ("smoothness_threshold", "strength", "max_sqnr_drop"):
        if not 0 <= getattr(request, name) < math.inf:
            raise ParameterError(f"{name}={getattr(request, name)}: expected a finite number of at least 0")
    if not 1 <= request.num_time_groups <= 100:
        raise ParameterError(f"num_time_groups={request.num_time_groups}: expected a whole number from 1 to 100")


class _Session:
    """One model's passes: the plain one, then what Phase 2 and Phase 3 make of it."""

    def __init__(self, request: SmoothnessRequest, model: Model, report: Report | None, say: Say) -> None:
        self._request, self._model, self._report, self._say = request, model, report, say
        self._notes: list[str] = []
        if not model.linear:
            raise BitNetError(NO_CHAIN)
        is_ternary = request.ternary or (request.bit_width is None and model.is_packed)
        if is_ternary and not request.ternary:
            self._notes.append("the linear weights are packed ternary codes, so they are measured as they are")
        method = Method(request.bit_width or 2, is_ternary, request.range, request.group_size)
        self._timesteps = None
        if request.calibration is not None:
            activations = read_calibration(request.calibration, (1 << method.bits) - 1)
            self._timesteps = Timesteps.plain(activations, request.num_time_groups)
        self._grouping, self._reason = self._choose(is_ternary)
        weights_by = "rows" if self._grouping == "timesteps" else self._grouping
        self._plan = Plan(method, weights_by, request.num_time_groups)
        if self._grouping == "depth" and all(tensor.layer is None for tensor in model.linear.values()):
            raise BitNetError(NO_CHAIN)
        self._note_diffusion()

    def _choose(self, is_ternary: bool) -> tuple[str, str]:
        """Return the grouping and the reason for it."""
        asked = self._request.grouping
        if asked != "auto":
            vacuous = is_ternary and asked in ("rows", "columns")
            return asked, f"asked for{'; ternary weights have one scale a tensor, so no jump can appear' * vacuous}"
        if self._timesteps is not None:
            return "timesteps", "the calibration samples are tagged with timesteps"
        if is_ternary:
            return "depth", "ternary weights have one scale a tensor, so the chain goes through the layers"
        return "rows", "float weights are quantized here, in blocks of output rows"

    def _note_diffusion(self) -> None:
        path = self._model.path
        settings = read_json_if_present(path / "config.json").values if path.is_dir() else {}
        names = f"{settings.get('model_type')} {settings.get('architectures')}".lower()
        if any(name in names for name in ("dream", "llada")):
            self._notes.append(DIFFUSION_NOTE)

    def document(self) -> dict[str, Any]:
        """Run all passes, move the accepted output to its place, and return the document."""
        with self._stages() as new:
            stage, found, seconds = self._pass(new, ())
            extras: dict[str, Any] = {}
            adjustments: tuple[Adjustments, ...] = ()
            if self._request.smooth is not None:
                stage, found, seconds, adjustments = self._smooth(new, extras, stage, found, seconds)
            if self._request.optimize:
                stage, found, seconds = self._optimize(new, extras, stage, found, seconds, adjustments)
            if self._request.text is not None and "accuracy" not in extras:
                extras["accuracy"] = self._accuracy(stage).to_dict()
            facts = self._facts()
            built = document(self._model, found, facts, self._timesteps, seconds, self._notes, extras)
            commit(stage, self._request.output, self._model.path)
        self._say(f"Wrote {self._request.output}")
        return built

    def _facts(self) -> dict[str, Any]:
        request = self._request
        return {
            "num_time_groups": request.num_time_groups,
            "smoothness_threshold": request.smoothness_threshold,
            "grouping": self._grouping,
            "grouping_reason": self._reason,
        }

    def _pass(self, new: Callable[[], Path], adjustments: Sequence[Adjustments]) -> tuple[Path, Run, float]:
        stage, started = new(), time.perf_counter()
        found = run(self._model, self._plan, stage, adjustments, self._report)
        seconds = time.perf_counter() - started
        self._say(f"Quantized {len(found.measured)} tensors in {seconds:.2f} s")
        for name, each in found.measured.items():
            self._say(f"  {name}: cosine {each.sums.cosine:.6f}")
        return stage, found, seconds

    # ---- Phase 2 -----------------------------------------------------------------------------------------------------
    def _smooth(
        self, new: Callable[[], Path], extras: dict[str, Any], stage: Path, found: Run, seconds: float
    ) -> tuple[Path, Run, float, tuple[Adjustments, ...]]:
        request, none = self._request, ()
        kind = request.smooth or "linear"
        about = {"kernel": kind, "window": request.window, "strength": request.strength}
        if self._timesteps is not None:
            extras["smoothing"] = about | self._smooth_timesteps(kind)
            return stage, found, seconds, none
        if self._plan.method.is_ternary:
            extras["smoothing"] = about | {"accepted": False, "reason": NOTHING_TO_DO}
            return stage, found, seconds, none
        adjust = smoothed(found, kind, request.window, request.strength)
        other_stage, other, other_seconds = self._pass(new, (adjust,))
        before, after = (key_metrics(each, request.smoothness_threshold) for each in (found, other))
        accepted, reason = self._is_allowed(before["sqnr_db"], after["sqnr_db"])
        extras["smoothing"] = about | {"accepted": accepted, "reason": reason} | changes(before, after)
        self._say(f"Phase 2: {reason}")
        if accepted:
            return other_stage, other, other_seconds, (adjust,)
        return stage, found, seconds, none

    def _smooth_timesteps(self, kind: str) -> dict[str, Any]:
        request, plain = self._request, self._timesteps
        assert plain is not None
        steps = plain.activations.spread(plain.chain)
        blend = blended(plain.chain, len(steps), kind, request.window, request.strength)
        other = Timesteps(plain.activations, plain.activations.chain(blend, request.num_time_groups), blend)
        before, after = (activation_metrics(each, request.smoothness_threshold) for each in (plain, other))
        accepted, reason = self._is_allowed(before["sqnr_db"], after["sqnr_db"])
        if accepted:
            self._timesteps = other
        return {"accepted": accepted, "reason": reason} | changes(before, after)

    def _is_allowed(self, before: float | None, after: float | None) -> tuple[bool, str]:
        """Tell whether SQNR, None where exact, falls by no more than is allowed."""
        most = self._request.max_sqnr_drop
        if before is None:
            return after is None, "weights that are exact stay so" if after is None else "refused: they were exact"
        drop = 0.0 if after is None else before - after
        if drop > most:
            return False, f"refused: SQNR would fall by {drop:.3f} dB, more than {most:g} dB; the original is kept"
        return True, f"SQNR changes by {-drop:+.3f} dB, at most -{most:g} dB is allowed"

    # ---- Phase 3 -----------------------------------------------------------------------------------------------------
    def _optimize(
        self,
        new: Callable[[], Path],
        extras: dict[str, Any],
        stage: Path,
        found: Run,
        seconds: float,
        adjustments: tuple[Adjustments, ...],
    ) -> tuple[Path, Run, float]:
        if self._plan.method.is_ternary:
            extras["optimization"] = {"accepted": False, "reason": NOTHING_TO_DO}
            return stage, found, seconds
        adjust, records = optimized(self._model, self._plan, adjustments, self._report)
        other_stage, other, other_seconds = self._pass(new, (*adjustments, adjust))
        threshold = self._request.smoothness_threshold
        before, after = (key_metrics(each, threshold) for each in (found, other))
        section = optimization_section(records) | changes(before, after)
        accepted, reason = bool(adjust), f"{len(adjust)} of {len(records)} tensors have a smaller relative MSE"
        if self._request.text is not None:
            old, now = self._accuracy(stage), self._accuracy(other_stage)
            section["token_kl"] = {"before": old.mean_token_kl, "after": now.mean_token_kl}
            if accepted and now.mean_token_kl > old.mean_token_kl:
                accepted, reason = False, "refused: the token KL grows; the original is kept"
            extras["accuracy"] = (now if accepted else old).to_dict()
        extras["optimization"] = {"accepted": accepted, "reason": reason} | section
        self._say(f"Phase 3: {reason}")
        return (other_stage, other, other_seconds) if accepted else (stage, found, seconds)

    def _accuracy(self, stage: Path) -> Accuracy:
        assert self._request.text is not None
        return measure_accuracy(self._model, stage, read_text(self._request.text))

    @contextmanager
    def _stages(self) -> Iterator[Callable[[], Path]]:
        """Give a function that makes folders for passes; those that were not moved are removed at the end."""
        made: list[Path] = []

        def new() -> Path:
            made.append(new_stage(self._request.output))
            return made[-1]

        try:
            yield new
        finally:
            for stage in made:
                with suppress(OSError):
                    shutil.rmtree(stage)
