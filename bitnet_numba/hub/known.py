"""Files on the hub whose SHA-256 is known, so that a pull checks them without being told to."""

from bitnet_numba.hub.model_id import DEFAULT_REVISION, HubReference

_KNOWN = {
    (  # 1,187,801,280 bytes
        "microsoft/bitnet-b1.58-2b-4t-gguf",
        "ggml-model-i2_s.gguf",
    ): "4221b252fdd5fd25e15847adfeb5ee88886506ba50b8a34548374492884c2162",
}


def known_sha256(reference: HubReference, file: str) -> str | None:
    """Return the SHA-256 that a file must have in the default revision of its repository, if it is known."""
    if reference.revision != DEFAULT_REVISION:
        return None
    return _KNOWN.get((reference.repo.lower(), file))  # the hub takes names in any case
