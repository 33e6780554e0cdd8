"""Requests to the hub: what a repository holds, and the bytes of its files."""

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
from bitnet_numba.hub.model_id import HubReference, stays_inside
from bitnet_numba.hub.retry import TransientError

TOKEN_HELP = (
    "set HF_TOKEN to a token that may read it (https://huggingface.co/settings/tokens), accept the terms on the"
    " model's page where there are any, and check the name"
)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,127}")
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub, as the hub describes it.

    Attributes
    ----------
    reference : HubReference
        With the file's name.
    url : str
        Where its bytes are, at this commit.
    commit : str
    etag : str
        What the content is called; for large files its SHA-256.
    size : int or None
        Bytes.
    """

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
        """Return the SHA-256 that the hub states, if it does."""
        return self.etag if re.fullmatch("[0-9a-f]{64}", self.etag) else None


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a file that a server sends.

    Attributes
    ----------
    start : int
        Which byte of the file is the first.
    total : int or None
        Bytes of the whole file.
    chunks : iterator of bytes
    """

    start: int
    total: int | None
    chunks: Iterator[bytes]


class RangeRefusedError(Exception):
    """The server has nothing from that byte on."""


class HubClient:
    """Ask the hub; every failure is a BitNetError, or a TransientError around one.

    Parameters
    ----------
    timeout : float
        Seconds for which the server may be silent.
    endpoint : str, optional
        By default what ``HF_ENDPOINT`` says, else https://huggingface.co.
    """

    def __init__(self, timeout: float, endpoint: str | None = None) -> None:
        self._timeout = timeout
        self.endpoint = endpoint or constants.ENDPOINT

    def list_files(self, reference: HubReference) -> tuple[str, list[str]]:
        """Return the commit that a revision has, and the names of its files."""
        revision = quote(reference.revision, safe="")
        url = f"{self.endpoint}/api/models/{reference.repo}/revision/{revision}"
        with _failures_told(str(reference)):
            response = _session().get(url, headers=build_hf_headers(), timeout=self._timeout)
            hf_raise_for_status(response)
            return _listing(response, str(reference))

    def describe(self, reference: HubReference) -> RemoteFile:
        """Return what the hub says about one file."""
        with _failures_told(str(reference)):
            _session()
            metadata = get_hf_file_metadata(
                resolve_url(reference, self.endpoint), timeout=self._timeout, endpoint=self.endpoint
            )
        commit, etag = metadata.commit_hash, metadata.etag
        if not (commit and etag and _ETAG.fullmatch(etag) and re.fullmatch("[0-9a-f]{40}", commit)):
            raise NetworkError(
                f"{reference}: {self.endpoint} does not answer as a hub does; check HF_ENDPOINT and the proxy,"
                " which may want a login"
            )
        pinned = HubReference(reference.repo, commit, reference.file)
        return RemoteFile(reference, resolve_url(pinned, self.endpoint), commit, etag, metadata.size)

    @contextmanager
    def open(self, remote: RemoteFile, start: int) -> Iterator[Body]:
        """Open the bytes of a file from one on; the server may send all of it instead.

        Raises
        ------
        RangeRefusedError
            If there is nothing from that byte on.
        """
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            _failures_told(str(remote.reference)),
            _session().stream("GET", remote.url, headers=headers, timeout=self._timeout) as response,
        ):
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise RangeRefusedError
            hf_raise_for_status(response)
            yield _body(response)


def resolve_url(reference: HubReference, endpoint: str) -> str:
    """Return the address of a file's bytes."""
    return f"{endpoint}/{reference.repo}/resolve/{quote(reference.revision, safe='')}/{quote(reference.file or '')}"


def _listing(response: httpx2.Response, place: str) -> tuple[str, list[str]]:
    try:
        answer = response.json()
        commit, names = str(answer["sha"]), [str(each["rfilename"]) for each in answer["siblings"]]
    except (ValueError, KeyError, TypeError):
        raise NetworkError(
            f"{place}: the hub's list of files cannot be read; check HF_ENDPOINT and the proxy"
        ) from None
    if not all(map(stays_inside, names)):
        raise NetworkError(f"{place}: the hub's list names a file outside the repository; check HF_ENDPOINT")
    return commit, names


def _body(response: httpx2.Response) -> Body:
    chunks = response.iter_bytes()
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise TransientError(NetworkError(f"{response.url.host}: sends a part of a file without saying which"))
        return Body(int(match[1]), int(match[2]), chunks)
    length = response.headers.get("Content-Length")
    return Body(0, int(length) if length is not None and length.isdigit() else None, chunks)


# ---- what can go wrong -----------------------------------------------------------------------------------------------
@contextmanager
def _failures_told(place: str) -> Iterator[None]:
    """Turn the failures of requests into our own."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _status_failure(error.response, place) from None
    except OfflineModeIsEnabled:
        raise NetworkError(f"{place}: the hub's library is set to work offline; unset TRANSFORMERS_OFFLINE") from None
    except HFValidationError as error:
        raise ParameterError(f"{place}: not a name that the hub gives ({_reason(error)})") from None
    except (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise NetworkError(f"{place}: {type(error).__name__}; check HF_ENDPOINT, HF_TOKEN and the proxy") from None
    except httpx2.TransportError as error:
        raise TransientError(NetworkError(f"{place}: {_reason(error)}")) from None
    except httpx2.HTTPError as error:
        raise NetworkError(f"{place}: {_reason(error)}; check HF_ENDPOINT and the proxy") from None


def _session() -> httpx2.Client:
    """Return the client that all programs on the hub's library share, with the proxy that the environment names."""
    try:
        return get_session()
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        raise NetworkError(f"proxy: {_reason(error)}; correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY") from None


def _reason(error: Exception) -> str:
    """Say in a few words what happened on the way."""
    if isinstance(error, httpx2.TimeoutException):
        return "the server is silent"
    return " ".join(str(error).split()).removesuffix(".")[:200] or type(error).__name__


def _status_failure(response: httpx2.Response, place: str) -> Exception:
    """Return what a status means: to give up, or to try again."""
    status, host = response.status_code, response.request.url.host
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AuthenticationError(f"{place}: {host} answers {status}; {TOKEN_HELP}")
    if status == HTTPStatus.NOT_FOUND:
        return BitNetError(f"{place}: not on {host}; check the name, the revision and the file")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        error: BitNetError = RateLimitError(f"{place}: {host} answers 429, too many requests")
        return TransientError(error, retry_after=_retry_after(response))
    error = NetworkError(f"{place}: {host} answers {status}")
    if status in _LATER or status >= 500:
        return TransientError(error, retry_after=_retry_after(response))
    return error


def _retry_after(response: httpx2.Response) -> float | None:
    """Read for how many seconds a server wants to be left alone, which it says as a number or as a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
