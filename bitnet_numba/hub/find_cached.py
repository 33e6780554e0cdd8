"""From a hub id to a model in the cache; nothing is ever downloaded here."""

from pathlib import Path

from bitnet_numba.errors import BitNetError
from bitnet_numba.hub.model_id import parse_reference


def cached_model(name: str) -> Path | None:
    """Return where a model of the hub lies in the cache, or None for a name that is no hub id.

    Parameters
    ----------
    name : str
        ``org/name[@revision][:file]``; a path that exists goes before it, which callers look at first.

    Raises
    ------
    BitNetError
        If the name is a hub id, and the cache does not have it.
    """
    reference = parse_reference(name)
    if reference is None:
        return None
    from bitnet_numba.hub.cache import RepositoryCache, path_to_open  # here, because it imports the hub's library

    files = RepositoryCache(reference.repo).find(reference)
    if not files:
        raise BitNetError(
            f"{name}: no such model, and the hub's cache does not have it; correct the path, or fetch it with"
            f" 'bitnet-numba pull {name}'"
        )
    return path_to_open(files)
