"""Is a file a policy, and what is it about?"""

import hashlib
from pathlib import Path
from typing import Any

from bitnet_numba.files import fingerprint_of
from bitnet_numba.validate.correction_policy import correction_policy
from bitnet_numba.validate.policy_file import parse_policy, read_policy_bytes
from bitnet_numba.validate.ruleset_policy import rulesets


def check_policy(path: Path) -> dict[str, Any]:
    """Check a correction policy, or one with rulesets, and sum it up.

    Returns
    -------
    dict
        ``kind`` (``corrections`` or ``rulesets``), ``fingerprint`` of the file, and how many ``models`` and
        ``corrections``, or the ``rulesets`` by key.

    Raises
    ------
    BitNetError
        If the file cannot be read.
    FormatError
        If it is neither.
    """
    data = read_policy_bytes(path)
    field = parse_policy(data, str(path))
    fingerprint = fingerprint_of(hashlib.sha256(data).hexdigest())
    if "rules" in field.entries():
        return {"kind": "rulesets", "fingerprint": fingerprint, "rulesets": sorted(rulesets(field))}
    models = correction_policy(field, fingerprint=fingerprint).models
    n_corrections = sum(map(len, models.values()))
    return {"kind": "corrections", "fingerprint": fingerprint, "models": len(models), "corrections": n_corrections}
