"""Loading a model while the user watches."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import bitnet_numba
from bitnet_numba_cli import _ui

if TYPE_CHECKING:
    from bitnet_numba import LanguageModel


@contextmanager
def loaded(arguments: Mapping[str, Any]) -> Iterator["LanguageModel"]:
    """Call :func:`bitnet_numba.load`, write its notes to stderr, and close the model when the block ends."""
    with bitnet_numba.load(**arguments) as model:
        _ui.say_notes(model.notes)
        yield model
