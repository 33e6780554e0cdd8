"""The only import of huggingface_hub and its HTTP client; both read the environment while they are imported."""

from bitnet_numba.errors import ParameterError

try:
    import httpx2
    from huggingface_hub import constants, get_hf_file_metadata, get_session
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status
except ValueError as error:
    raise ParameterError(
        f"environment: {error}; correct or unset HF_ENDPOINT, HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT"
    ) from None

__all__ = ["HFValidationError", "HfHubHTTPError", "OfflineModeIsEnabled", "WeakFileLock", "build_hf_headers"]
__all__ += ["constants", "get_hf_file_metadata", "get_session", "hf_raise_for_status", "httpx2"]
