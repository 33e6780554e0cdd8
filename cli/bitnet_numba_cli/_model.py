"""Loading a model in view of the user."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import bitnet_numba
from bitnet_numba_cli import _ui

if TYPE_CHECKING:
    from bitnet_numba import LanguageModel


@contextmanager
def loaded(arguments: Mapping[str, Any]) -> Iterator["LanguageModel"]:
    """Load a model, tell what there is to tell about that on stderr, and close it at the end of the block.

    Parameters
    ----------
    arguments : mapping of str to object
        Those of :func:`bitnet_numba.load`.

    Raises
    ------
    BitNetError
        If the model cannot be read or served.
    """
    with _ui.compilation_notice():
        model = bitnet_numba.load(**arguments)
    with model:
        _ui.say_notes(model.notes)
        yield model
