"""A local HTTP server that keeps what alert delivery posts to it, and rows to deliver."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import polars as pl
from deltalake import write_deltalake

from fraud_lakehouse.lake.lake import Lake

FIRED = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Receiver:
    """Answers each POST with `status` after `delay` seconds; `received` are the JSON objects, in order."""

    def __init__(self, status: int = 200, delay: float = 0.0) -> None:
        self.status, self.delay = status, delay
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.released.wait(receiver.delay)
                if receiver.status == 200:
                    receiver.received.append(body)
                    receiver.headers.append(dict(self.headers))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"json://{self.host}/hook"

    @property
    def alert_ids(self) -> list[str]:
        return [one["alert_id"] for one in self.received if "alert_id" in one]


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
    write_deltalake(lake.uri("gold", "alerts"), alert_rows(first, count, **changes), mode="append")


def attempts(lake: Lake) -> list[dict[str, Any]]:
    """The rows of gold/alert_deliveries in order of time."""
    return pl.scan_delta(lake.open("gold", "alert_deliveries")).sort("attempted_at").collect().to_dicts()
