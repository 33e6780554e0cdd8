"""A local hub with the part of the protocol that a pull needs; it fails on demand."""

import hashlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/model"


class Request(NamedTuple):
    """A received request: ``kind`` is list, HEAD or GET."""

    kind: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class FakeHub:
    """Files of the server, faults to inject, and requests received.

    Attributes
    ----------
    files : dict of str to bytes
    faults : dict of str to deque
        For each kind of request, what happens to the next ones instead of an answer.
    requests : list of Request
    repo : str
    endpoint : str
    """

    files: dict[str, bytes]
    faults: dict[str, deque["Fault"]] = field(
        default_factory=lambda: {kind: deque() for kind in ("list", "HEAD", "GET")}
    )
    requests: list[Request] = field(default_factory=list)
    repo: str = REPO
    endpoint: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def fail(self, *faults: "Fault", at: str = "GET") -> None:
        """Let the next requests of a kind go wrong, in this order."""
        self.faults[at].extend(faults)

    def asked(self, kind: str) -> list[str | None]:
        """Return the ranges of the requests of a kind."""
        return [request.range for request in self.requests if request.kind == kind]


class Handler(BaseHTTPRequestHandler):
    """Answer one request from the class attribute ``hub``."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("list" if self.path.startswith("/api/") else "GET")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Say nothing."""

    def _answer(self, kind: str) -> None:
        headers = self.headers
        self.hub.requests.append(Request(kind, self.path, headers.get("Range"), headers.get("Authorization")))
        if self.hub.faults[kind]:
            self.hub.faults[kind].popleft()(self)
        elif kind == "list":
            names = [{"rfilename": name} for name in self.hub.files]
            self.send(200, json.dumps({"id": self.hub.repo, "sha": COMMIT, "siblings": names}).encode())
        elif self.content is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.send_file(self.content)

    @property
    def content(self) -> bytes | None:
        """The file that is asked for."""
        head, _, tail = self.path.partition("/resolve/")
        return self.hub.files.get(unquote(tail.partition("/")[2])) if head == f"/{self.hub.repo}" else None

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, content: bytes) -> None:
        """Send a file, or the part of it that is asked for."""
        digest = hashlib.sha256(content).hexdigest()
        facts = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
        facts |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{digest}"'}
        start = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])
        if start == 0:
            self.send(200, content, facts)
        elif start >= len(content):
            self.send(416, b"", facts | {"Content-Range": f"bytes */{len(content)}"})
        else:
            self.send(
                206, content[start:], facts | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            )

    def hang_up(self) -> None:
        """Close the connection as a machine does that crashes: with a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class Server(ThreadingHTTPServer):
    """A server that does not log clients that disconnect."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


Fault = Callable[[Handler], None]


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[FakeHub]:
    """Serve a repository until the end of the block."""
    hub = FakeHub(dict(files))
    server = Server(("127.0.0.1", 0), type("OneHub", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


# ---- faults ----------------------------------------------------------------------------------------------------------
def reset(handler: Handler) -> None:
    """Break the connection without an answer."""
    handler.hang_up()


def stall(handler: Handler) -> None:
    """Never answer."""
    handler.hub.closing.wait(30)
    handler.hang_up()


def status(code: int, **headers: str) -> Fault:
    """Answer with a status; ``Retry_After="1"`` becomes the header ``Retry-After``."""
    return lambda handler: handler.send(code, b"", {name.replace("_", "-"): value for name, value in headers.items()})


def dies_after(n_bytes: int, *, stalls: bool = False) -> Fault:
    """Send ``n_bytes`` of the requested file, then break the connection, or stall."""

    def fault(handler: Handler) -> None:
        content = handler.content or b""
        start = int((handler.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[start : start + n_bytes])
        handler.wfile.flush()
        if stalls:
            handler.hub.closing.wait(30)
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    return fault


def sends(content: bytes, code: int = 200, **headers: str) -> Fault:
    """Send something else, whole."""
    return lambda handler: handler.send(
        code, content, {name.replace("_", "-"): value for name, value in headers.items()}
    )


def sends_until_closed(content: bytes) -> Fault:
    """Send something without saying how long it is, and close the connection."""

    def fault(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    return fault
