"""An HTTP destination of alerts that misbehaves when it is told to, and a place to which it redirects."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HONEST = "honest"
_HUGE_BYTES = 400 * 1024 * 1024
_DRIP_SECONDS = 0.2


class HostileDestination:
    """Accepts alerts as `behaviour` says, a key of `BEHAVIOURS`; a context manager.

    `accepted`: ids of the alerts that it answered with a status of 200. `requests`: by behaviour, how many came.
    `elsewhere`: paths of the requests that came to the place it redirects to.
    """

    def __init__(self) -> None:
        self.behaviour = HONEST
        self.accepted: list[str] = []
        self.requests: dict[str, int] = {}
        self.elsewhere: list[str] = []
        self._changed = threading.Event()
        self._place = _server(self._note_elsewhere)
        self._server = _server(self._answer)

    def __enter__(self) -> HostileDestination:
        return self

    def __exit__(self, *_: object) -> None:
        self._changed.set()
        for server in (self._server, self._place):
            server.shutdown()
            server.server_close()

    @property
    def host(self) -> str:
        """host:port, as the records of deliveries name it."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """For FRAUD_ALERT_URLS."""
        return f"json://{self.host}/hook"

    @contextlib.contextmanager
    def behaving(self, behaviour: str) -> Iterator[None]:
        """Misbehave so until the block ends; requests that are still open are cut off then."""
        self._changed = threading.Event()
        self.behaviour = behaviour
        try:
            yield
        finally:
            self.behaviour = HONEST
            self._changed.set()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        behaviour, changed = self.behaviour, self._changed
        body: dict[str, Any] = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.requests[behaviour] = self.requests.get(behaviour, 0) + 1
        request.close_connection = True
        if behaviour == HONEST:
            self.accepted.append(str(body.get("alert_id")))
            request.send_response(200)
            request.end_headers()
        elif behaviour.isdigit():
            place = f"http://127.0.0.1:{self._place.server_address[1]}/{behaviour}"
            request.wfile.write(_head(int(behaviour), Location=place, Content_Length="0"))
        else:
            if behaviour in _SAYS_200:
                self.accepted.append(str(body.get("alert_id")))
            with contextlib.suppress(OSError):
                BEHAVIOURS[behaviour](request, changed)

    def _note_elsewhere(self, request: BaseHTTPRequestHandler) -> None:
        self.elsewhere.append(request.path)
        request.wfile.write(_head(200, Content_Length="0"))


def _drip(request: BaseHTTPRequestHandler, changed: threading.Event) -> None:
    """A header every now and then, never the last one."""
    request.wfile.write(b"HTTP/1.0 200 OK\r\n")
    while not changed.wait(_DRIP_SECONDS):
        request.wfile.write(b"X-More: 1\r\n")


def _drip_body(request: BaseHTTPRequestHandler, changed: threading.Event) -> None:
    """A byte of a long body every now and then."""
    request.wfile.write(_head(200, Content_Length="1000000"))
    while not changed.wait(_DRIP_SECONDS):
        request.wfile.write(b"x")


def _huge(request: BaseHTTPRequestHandler, changed: threading.Event) -> None:
    """Hundreds of megabytes at once."""
    request.wfile.write(_head(200, Content_Length=str(_HUGE_BYTES)))
    block = b"x" * 1_048_576
    for _ in range(_HUGE_BYTES // len(block)):
        if changed.is_set():
            return
        request.wfile.write(block)


def _endless(request: BaseHTTPRequestHandler, changed: threading.Event) -> None:
    """Chunks for as long as somebody reads them."""
    request.wfile.write(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    while not changed.wait(0.01):
        request.wfile.write(chunk)


def _silent(request: BaseHTTPRequestHandler, changed: threading.Event) -> None:
    """No answer at all."""
    changed.wait()


def _cut(request: BaseHTTPRequestHandler, changed: threading.Event) -> None:
    """Half a status line, then a reset."""
    request.wfile.write(b"HTTP/1.1 2")
    request.connection.shutdown(socket.SHUT_RDWR)


def _nonsense(request: BaseHTTPRequestHandler, changed: threading.Event) -> None:
    """What is no HTTP."""
    request.wfile.write(b"220 mail.example ESMTP\r\n" * 20)


def _failure(request: BaseHTTPRequestHandler, changed: threading.Event) -> None:
    """A failure, whose body claims success."""
    request.wfile.write(_head(503, Content_Length="15") + b'{"status":"ok"}')


BEHAVIOURS: dict[str, Callable[[BaseHTTPRequestHandler, threading.Event], None]] = {
    "drips headers": _drip,
    "drips a body": _drip_body,
    "sends a huge body": _huge,
    "sends an endless failure": _endless,
    "never answers": _silent,
    "cuts its answer": _cut,
    "answers nonsense": _nonsense,
    "claims success in a failure": _failure,
}
REDIRECTS = ("301", "302", "303", "307", "308")
_SAYS_200 = {"drips headers", "drips a body", "sends a huge body"}
"""Whose first line says that the alert was accepted: it may be recorded as delivered, or sent again."""


def _head(status: int, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *(f"{name.replace('_', '-')}: {text}" for name, text in headers.items())]
    return ("\r\n".join([*lines, "Connection: close", "", ""])).encode()


def _server(answer: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self)

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
