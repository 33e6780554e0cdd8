"""What to do where this machine may not, or cannot, ask the network."""

from bitnet_numba.hub.client import resolve_url
from bitnet_numba.hub.known import known_sha256
from bitnet_numba.hub.library import constants
from bitnet_numba.hub.model_id import HubReference


def instructions(reference: HubReference, sha256: str | None, endpoint: str | None = None) -> str:
    """Return how a person fetches a model on another machine and brings it here.

    Parameters
    ----------
    reference : HubReference
    sha256 : str or None
        What the file must have, if the user stated it.
    endpoint : str, optional
        By default what ``HF_ENDPOINT`` says, else https://huggingface.co.
    """
    endpoint = endpoint or constants.ENDPOINT
    if reference.file is None:
        page = f"{endpoint}/{reference.repo}/tree/{reference.revision}"
        return (
            "To bring it here by hand, on a machine with a network take from\n"
            f"    {page}\n"
            "the .gguf file, or config.json, tokenizer.json and the .safetensors files into one folder. Copy that here,"
            " and name it:\n"
            "    bitnet-numba run -m PATH"
        )
    url = resolve_url(reference, endpoint)
    name = reference.file.rpartition("/")[2]
    digest = sha256 or known_sha256(reference, reference.file)
    check = f"    sha256sum {name}{'' if digest is None else f'    # {digest}'}\n"
    return (
        "To bring it here by hand, on a machine with a network:\n"
        f"    curl -fL -C - -o {name} {url}\n{check}"
        "Copy the file here, and name it:\n"
        f"    bitnet-numba run -m ./{name}"
    )
