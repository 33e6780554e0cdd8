"""Open a model as the environment variables state: as it is, or with runtime corrections of known bad weights."""

from pathlib import Path

from bitnet_numba.errors import CorrectionRefusedError
from bitnet_numba.files import fingerprint_of
from bitnet_numba.model.open import model_path, open_source
from bitnet_numba.model.source import ModelSource
from bitnet_numba.settings import Settings, read_settings


def open_corrected(model: str | Path | None) -> ModelSource:
    """Open a model, corrected if the environment requests and allows that.

    A policy applies where ``BITNET_CORRECTION_POLICY`` names it, ``BITNET_ALLOW_RUNTIME_CORRECTIONS`` is set, and it
    has the model's fingerprint. ``BITNET_FIX_LN_SCALE`` needs the permission too. Raises a CorrectionRefusedError if
    corrections are requested and allowed, but in strict mode.
    """
    settings = read_settings()
    if settings.correction_policy is None and not settings.fixes_norm_scale:
        return open_source(model)
    if not settings.allows_corrections:
        source = open_source(model)
        source.notes += ("nothing is corrected: BITNET_ALLOW_RUNTIME_CORRECTIONS is not set",)
        return source
    if settings.strict:
        names = ", ".join(settings.correction_variables())
        raise CorrectionRefusedError(f"no model is corrected in strict mode: unset {names}, or BITNET_STRICT_MODE")
    return _corrected(model_path(model), settings)


def _corrected(path: Path, settings: Settings) -> ModelSource:
    # here, so that other runs need neither YAML nor a digest
    from bitnet_numba.model.corrections import CorrectedSource, NormRescale
    from bitnet_numba.validate.inspect import model_sha256
    from bitnet_numba.validate.model_files import read_model_files
    from bitnet_numba.validate.policies import FACTOR_CLAMP, read_correction_policy

    source: ModelSource = open_source(path)
    if settings.correction_policy is not None:
        policy = read_correction_policy(settings.correction_policy)
        fingerprint = fingerprint_of(model_sha256(read_model_files(path)))
        if fingerprint in policy.models:
            source = CorrectedSource(source, policy.models[fingerprint], policy.fingerprint)
        else:
            source.notes += (f"{settings.correction_policy} corrects nothing: it does not list {fingerprint}",)
    if settings.fixes_norm_scale:
        source = CorrectedSource(source, [NormRescale(1.0, FACTOR_CLAMP)], "BITNET_FIX_LN_SCALE")
    return source
