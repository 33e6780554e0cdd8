"""Choice of the ruleset that a model is inspected by: its family's, for ternary or for float files."""

from typing import Final

from bitnet_numba.formats.tensor_formats import Kind, writable
from bitnet_numba.model.families import FAMILIES
from bitnet_numba.model.weight_rules import GENERIC_INSPECTION, PROJECTION, UNBOUNDED, InspectionRules, Ruleset
from bitnet_numba.validate.model_files import ModelFiles
from bitnet_numba.validate.statistics import TERNARY_TYPES

F16_FILE_TYPES: Final = [known.file_type for known in writable(Kind.FLOAT).values()]
TERNARY_FILE_TYPES: Final = [known.file_type for known in writable(Kind.TERNARY).values()]

NO_RULES: Final = Ruleset("none", (), default=UNBOUNDED)


def auto_ruleset(model: ModelFiles) -> Ruleset:
    """Choose the ruleset of a model by architecture, then by whether its file is ternary."""
    rules = _inspection(model.architecture.lower())
    return rules.ternary if _is_ternary(model) else rules.floats


def _inspection(architecture: str) -> InspectionRules:
    """Return the rules of the architecture's family, or of one that it is named after."""
    if architecture in FAMILIES:
        return FAMILIES[architecture].inspection
    for family in FAMILIES.values():
        if any(text in architecture for text in family.inspection.relatives):
            return family.inspection
    return GENERIC_INSPECTION


def _is_ternary(model: ModelFiles) -> bool:
    """Take the file's own statement; without one, look at the types of the projections."""
    if model.file_type in F16_FILE_TYPES or model.file_type in TERNARY_FILE_TYPES:
        return model.file_type in TERNARY_FILE_TYPES
    return any(tensor.type in TERNARY_TYPES for tensor in model.tensors.values() if tensor.kind == PROJECTION)
