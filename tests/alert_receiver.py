"""A local HTTP server that keeps what alert delivery posts to it, well-behaved or hostile, and rows to deliver."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any, Literal

import polars as pl

from fraud_lakehouse.storage.lake import Lake
from tests.numbered import commit

FIRED = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


DRIP_SECONDS = 0.02  # between two bytes
OK = b"HTTP/1.1 200 OK\r\n"
Mode = Literal[
    "answer",  # with `status`; with `location` it redirects
    "drip_head",
    "drip_body",
    "endless_head",
    "endless_body",
    "compressed_bomb",
    "no_answer",
    "close",  # without an answer
    "malformed",
    "flood_1xx",
    "cut_body",  # less than it announces
]


def _dripped(answer: bytes) -> Iterator[bytes]:
    """One byte at a time, and then for ever."""
    return (bytes([byte]) for byte in chain(answer, repeat(ord("x"))))


def _bomb() -> Iterator[bytes]:
    """Gigabytes of zeros as one gzip stream."""
    gzip = zlib.compressobj(wbits=31)
    yield OK + b"Content-Encoding: gzip\r\n\r\n"
    yield from (gzip.compress(bytes(1 << 20)) for _ in range(4096))


HOSTILE: dict[str, Any] = {
    "drip_head": lambda: _dripped(OK + b"X-Slow: "),
    "drip_body": lambda: chain([OK + b"\r\n"], _dripped(b"")),
    "endless_head": lambda: chain([OK], repeat(b"X-More: " + b"x" * 1000 + b"\r\n")),
    "endless_body": lambda: chain([OK + b"\r\n"], repeat(b"x" * 65536)),
    "compressed_bomb": _bomb,
    "no_answer": lambda: repeat(b""),
    "close": lambda: iter(()),
    "malformed": lambda: iter([b"220 mail.example ESMTP\r\n"]),
    "flood_1xx": lambda: repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "cut_body": lambda: iter([OK + b"Content-Length: 1000\r\n\r\n", b"short"]),
}


class _Server:
    """A TCP server on a free port of this machine, in a thread of its own."""

    def __init__(self, server: ThreadingTCPServer | ThreadingHTTPServer) -> None:
        server.daemon_threads = True
        self.released = threading.Event()  # ends what it is doing to its clients
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"


class Receiver(_Server):
    """Answers each POST as `mode` says, by default with `status` after `delay` seconds.

    `received` are the JSON objects it has accepted, in order, and `methods` those of all requests.

    Args:
        location: where an answer with a status of 3xx redirects to.
        body: of an answer.
    """

    def __init__(
        self, status: int = 200, delay: float = 0.0, mode: Mode = "answer", location: str = "", body: bytes = b""
    ) -> None:
        self.status, self.delay, self.mode, self.location, self.body = status, delay, mode, location, body
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.methods: list[str] = []
        self.accepted = threading.Event()  # set once `received` has one
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def answer(self) -> None:
                receiver.methods.append(self.command)
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if receiver.mode in HOSTILE:
                    self.close_connection = True
                    self.send_all(HOSTILE[receiver.mode]())
                    return
                receiver.released.wait(receiver.delay)
                if receiver.status == 200 and self.command == "POST":
                    receiver.received.append(json.loads(sent))
                    receiver.headers.append(dict(self.headers))
                    receiver.accepted.set()
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.end_headers()
                self.wfile.write(receiver.body)

            def send_all(self, pieces: Iterator[bytes]) -> None:
                """Until the client has gone, or the receiver ends."""
                with suppress(OSError):
                    for piece in pieces:
                        self.wfile.write(piece)
                        if receiver.released.wait(DRIP_SECONDS if len(piece) < 2 else 0):
                            return

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    @property
    def url(self) -> str:
        return f"json://{self.host}/hook"

    @property
    def alert_ids(self) -> list[str]:
        return [one["alert_id"] for one in self.received if "alert_id" in one]


class Dripper(_Server):
    """Sends one byte at a time, for ever, to who connects by whatever protocol: first those of `start`, then x."""

    def __init__(self, start: bytes = b"") -> None:
        dripper = self

        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    for byte in _dripped(start):
                        self.request.sendall(byte)
                        if dripper.released.wait(DRIP_SECONDS):
                            return

        super().__init__(ThreadingTCPServer(("127.0.0.1", 0), Handler))

    def __enter__(self) -> Dripper:
        self._thread.start()
        return self


def alert_rows(first: int, count: int, **changes: Any) -> pl.DataFrame:
    """`count` alerts with ids a<first>... of the shape of gold/alerts; the score is the number."""
    return pl.DataFrame(
        [
            {
                "alert_id": f"a{number}",
                "rule": "amount_above_mean" if number % 2 else "velocity",
                "rule_version": 1,
                "severity": "high" if number % 2 else "medium",
                "entity_type": "user",
                "entity_id": str(number % 3),
                "transaction_id": str(number),
                "event_time": FIRED.replace(tzinfo=None),
                "source_committed_at": FIRED,
                "fired_at": FIRED + timedelta(seconds=number),
                "score": float(number),
                "evidence": json.dumps({"amount": 900.0, "prior_mean": 100.0, "prior_count": 7, "k": 3}),
                "source": "postgres.transactions",
                "user_id": number % 3,
                "amount": 900.0,
                "landed_at": FIRED,
                **changes,
            }
            for number in range(first, first + count)
        ]
    )


def record_alerts(lake: Lake, first: int, count: int, **changes: Any) -> None:
    """Commit alerts, as the dbt model does."""
    commit(lake.uri("gold", "alerts"), alert_rows(first, count, **changes))


def attempts(lake: Lake) -> list[dict[str, Any]]:
    """The rows of gold/alert_deliveries in order of time."""
    return pl.scan_delta(lake.open("gold", "alert_deliveries")).sort("attempted_at").collect().to_dicts()
