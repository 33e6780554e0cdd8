"""HTTP requests to the hub: list a repository, describe a file, stream its bytes.

Each failure becomes a BitNetError, or a TransientError around one where a retry may help.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import quote

from bitnet_numba.errors import AuthenticationError, BitNetError, NetworkError, ParameterError, RateLimitError
from bitnet_numba.hub.library import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    build_hf_headers,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_raise_for_status,
    httpx2,
)
from bitnet_numba.hub.model_id import HubReference, is_safe_path
from bitnet_numba.hub.retry import TransientError

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub: its address is pinned to the commit, its ETag is the SHA-256 if it is a large file."""

    reference: HubReference
    url: str
    commit: str
    etag: str
    size: int | None

    @property
    def name(self) -> str:
        """Return the path inside the repository."""
        return self.reference.file or ""

    @property
    def sha256(self) -> str | None:
        """Return the SHA-256 if the hub states it."""
        return self.etag if re.fullmatch("[0-9a-f]{64}", self.etag) else None


@dataclass(frozen=True, slots=True)
class Body:
    """A response body: the offset of its first byte, the size of the whole file if known, and the bytes."""

    start: int
    total: int | None
    chunks: Iterator[bytes]


class RangeRefusedError(Exception):
    """The file has no bytes at the requested offset."""


class HubClient:
    """Client of the hub at ``HF_ENDPOINT``; a request fails after ``timeout`` seconds without a byte."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._endpoint = constants.ENDPOINT

    def list_files(self, reference: HubReference) -> tuple[str, list[str]]:
        """Return the commit of a revision, and its file names."""
        url = f"{self._endpoint}/api/models/{reference.repo}/revision/{quote(reference.revision, safe='')}"
        with _translated_errors(str(reference)):
            response = _session().get(url, headers=build_hf_headers(), timeout=self._timeout)
            hf_raise_for_status(response)
        try:
            answer = response.json()
            commit, names = str(answer["sha"]), [str(each["rfilename"]) for each in answer["siblings"]]
        except (ValueError, KeyError, TypeError):
            problem = "the hub's list of files cannot be read; check HF_ENDPOINT and the proxy"
            raise NetworkError(f"{reference}: {problem}") from None
        if not all(map(is_safe_path, names)):
            raise NetworkError(f"{reference}: the hub's list names a file outside the repository; check HF_ENDPOINT")
        return commit, names

    def describe(self, reference: HubReference) -> RemoteFile:
        """Return what the hub knows about one file."""
        with _translated_errors(str(reference)):
            _session()
            metadata = get_hf_file_metadata(
                reference.url(self._endpoint), timeout=self._timeout, endpoint=self._endpoint
            )
        commit, etag = metadata.commit_hash, metadata.etag
        if not (commit and etag and _ETAG.fullmatch(etag) and re.fullmatch("[0-9a-f]{40}", commit)):
            problem = "does not answer as a hub does; check HF_ENDPOINT and the proxy, which may want a login"
            raise NetworkError(f"{reference}: {self._endpoint} {problem}")
        pinned = HubReference(reference.repo, commit, reference.file)
        return RemoteFile(reference, pinned.url(self._endpoint), commit, etag, metadata.size)

    @contextmanager
    def open(self, remote: RemoteFile, start: int) -> Iterator[Body]:
        """Stream a file from byte ``start`` on; the server may send the whole file, or raise a RangeRefusedError."""
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            _translated_errors(str(remote.reference)),
            _session().stream("GET", remote.url, headers=headers, timeout=self._timeout) as response,
        ):
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise RangeRefusedError
            hf_raise_for_status(response)
            yield _body(response)


def _body(response: httpx2.Response) -> Body:
    chunks = response.iter_bytes()
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise TransientError(NetworkError(f"{response.url.host}: partial content without a valid Content-Range"))
        return Body(int(match[1]), int(match[2]), chunks)
    length = response.headers.get("Content-Length", "")
    return Body(0, int(length) if length.isdigit() else None, chunks)


def _session() -> httpx2.Client:
    """Return the hub library's shared client, which reads the proxy from the environment."""
    try:
        return get_session()
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        raise NetworkError(f"proxy: {_reason(error)}; correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY") from None


@contextmanager
def _translated_errors(place: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        raise _status_error(error.response, place) from None
    except OfflineModeIsEnabled:
        raise NetworkError(f"{place}: the hub's library is set to work offline; unset TRANSFORMERS_OFFLINE") from None
    except HFValidationError as error:
        raise ParameterError(f"{place}: not a valid repository name ({_reason(error)}); correct it") from None
    except (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise NetworkError(f"{place}: {type(error).__name__}; check HF_ENDPOINT, HF_TOKEN and the proxy") from None
    except httpx2.TransportError as error:
        raise TransientError(NetworkError(f"{place}: {_reason(error)}")) from None
    except httpx2.HTTPError as error:
        raise NetworkError(f"{place}: {_reason(error)}; check HF_ENDPOINT and the proxy") from None


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "the server does not respond"
    return " ".join(str(error).split()).removesuffix(".")[:200] or type(error).__name__


def _status_error(response: httpx2.Response, place: str) -> Exception:
    status, host = response.status_code, response.request.url.host
    answer = f"{place}: {host} answers {status}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AuthenticationError(
            f"{answer}; set HF_TOKEN to a token that may read it (https://huggingface.co/settings/tokens), accept the"
            " terms on the model's page where there are any, and check the name"
        )
    if status == HTTPStatus.NOT_FOUND:
        return BitNetError(f"{place}: not on {host}; check the name, the revision and the file")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TransientError(RateLimitError(f"{answer}, too many requests"), retry_after=_retry_after(response))
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY) or status >= 500:
        return TransientError(NetworkError(answer), retry_after=_retry_after(response))
    return NetworkError(answer)


def _retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which holds a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
