"""A validator of transfers on a port of this machine, in order or out of it; and rows of transfers for it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import polars as pl

from fraud_lakehouse.detection.validator.client import PERSON
from fraud_lakehouse.storage.lake import Lake
from tests.numbered import commit

Mode = Literal["answer", "error", "nonsense", "silent", "refuse", "drip"]
COLUMNS: dict[str, pl.DataType] = {
    "transaction_id": pl.String(),
    "sender_bank_account": pl.String(),
    "sender_bank": pl.String(),
    "amount": pl.Decimal(18, 2),
    "evaluation": pl.String(),
    "transfer_date": pl.Datetime("us"),
    **{f"receiver_{'own_account' if name == 'bank_account' else name}": pl.String() for name in PERSON},
}


def is_fraudulent(transaction_id: str) -> bool:
    """The truth that the service knows."""
    return sum(transaction_id.encode()) % 2 == 0


class Service:
    """Answers `POST /validate`; `asked` are the bodies it was sent, in order. A context manager.

    Args:
        mode: how it answers; may be changed at any time. `silent` sends nothing until the service ends, `drip` an
            endless header.
        port: 0: any.
    """

    def __init__(self, mode: Mode = "answer", port: int = 0) -> None:
        self.mode: Mode = mode
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self._ended = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65536  # head and body in one packet: the client would wait 40 ms for the second

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append(body)
                service.paths.append(self.path)
                mode = service.mode
                if mode == "silent":
                    service._ended.wait()
                elif mode == "drip":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                    while not service._ended.wait(0.05):
                        self.wfile.write(b"x")
                        self.wfile.flush()
                elif mode == "error":
                    self.answer(500, b"out of order")
                elif mode == "nonsense":
                    self.answer(200, b'{"is_fraudulent_transaction": "perhaps"}')
                elif mode == "refuse":
                    self.answer(422, b"no such bank")
                else:
                    result = is_fraudulent(body["transaction_id"])
                    self.answer(200, json.dumps({"is_fraudulent_transaction": result, "model": "v1"}).encode())

            def answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that has gone is no error of the service."""

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def transfer(transaction_id: str, evaluation: str | None = "unidentified", **changes: Any) -> dict[str, Any]:
    """A row of silver/bank_transfers, as far as the validator's client reads it."""
    person = {name: None for name in COLUMNS if name.startswith("receiver_")}
    return {
        "transaction_id": transaction_id,
        "sender_bank_account": "GB01",
        "sender_bank": "First",
        "amount": Decimal("12.50"),
        "evaluation": evaluation,
        "transfer_date": datetime(2026, 1, 1, 12, tzinfo=UTC).replace(tzinfo=None),
        **person,
        "receiver_id": "r1",
        **changes,
    }


def record_transfers(lake: Lake, *rows: dict[str, Any], rewritten: bool = False) -> None:
    """Commit transfers, as the model of the stream's rows does; or replace those there are."""
    frame = pl.DataFrame(list(rows), schema=COLUMNS)
    commit(lake.uri("silver", "bank_transfers"), frame, "overwrite" if rewritten else "append")


def judgements(lake: Lake) -> list[dict[str, Any]]:
    """The rows of silver/transfer_judgements by id; none while there is no table."""
    if not lake.exists("silver", "transfer_judgements"):
        return []
    return pl.scan_delta(lake.open("silver", "transfer_judgements")).sort("transaction_id").collect().to_dicts()
