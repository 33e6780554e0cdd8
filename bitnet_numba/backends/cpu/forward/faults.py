"""Where numbers leave their format: the step notes infinity and NaN as it meets them, as it counts kernels.

Two places suffice. A sum of squares beyond float32 makes a norm's output NaN, and what is infinite or NaN reaches the
next quantization of activations, which notes it; keys and values are looked at when they are stored.
"""

import numpy as np

from bitnet_numba.backends.chunk_checks import Place, fault_error
from bitnet_numba.backends.cpu.array_types import Int32s
from bitnet_numba.backends.cpu.compiler.jit import jit_inline
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext

ATTENTION_INPUT, KEYS_AND_VALUES, ATTENTION_OUTPUT, FFN_INPUT, FFN_GATED = range(5)
"""Places in a layer, as jitted code notes them."""

_PLACES = {
    ATTENTION_INPUT: Place.ATTENTION_INPUT,
    KEYS_AND_VALUES: Place.KEYS_AND_VALUES,
    ATTENTION_OUTPUT: Place.ATTENTION_OUTPUT,
    FFN_INPUT: Place.FFN_INPUT,
    FFN_GATED: Place.FFN_GATED,
}
_N_PLACES = len(_PLACES)


@jit_inline
def note_fault(ctx: ThreadContext, faults: Int32s, layer: int, place: int, is_fine: bool) -> None:
    """Note a place, unless this thread has met an earlier one."""
    if not is_fine and faults[ctx.thread] == 0:
        faults[ctx.thread] = 1 + layer * _N_PLACES + place


def check_faults(faults: Int32s, kv_type: str) -> None:
    """Raise NonFiniteError for the earliest place of a step that has one."""
    if faults.any():
        layer, place = divmod(int(faults[np.nonzero(faults)].min()) - 1, _N_PLACES)
        raise fault_error(_PLACES[place], layer, kv_type)
