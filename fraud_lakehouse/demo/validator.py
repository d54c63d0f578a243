"""The demo's validator of transfers: an HTTP service that makes the same stream as the generator to know the truth."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

from fraud_lakehouse.demo.services import HOST
from fraud_lakehouse.demo.transfers import SEED, transfers


class DemoValidator:
    """Answers `POST /validate` on a free port of the loopback address, in threads of its own.

    Args:
        most: transfers that are made to find one.
    """

    def __init__(self, most: int = 1_000_000) -> None:
        judge = _Truth(most).judge

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65536  # head and body in one packet: the client would wait 40 ms for the second

            def do_POST(self) -> None:
                try:
                    name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["transaction_id"]
                except (KeyError, TypeError, ValueError):
                    self._answer(400, {"error": "expected a JSON object with transaction_id"})
                    return
                if self.path != "/validate":
                    self._answer(404, {"error": "expected POST /validate"})
                    return
                answer = judge(str(name))
                if answer is None:
                    self._answer(422, {"error": f"transfer {name} is none of the demo's"})
                else:
                    self._answer(200, {"is_fraudulent_transaction": answer})

            def _answer(self, status: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """No line for each request."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="validator", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Truth:
    """Whether a transfer is fraudulent, for several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._stream = transfers(SEED)
        self._known: dict[str, bool] = {}
        self._lock = threading.Lock()

    def judge(self, transaction_id: str) -> bool | None:
        """Whether it is; None if the stream has no such transfer as far as it was looked for."""
        with self._lock:
            if transaction_id not in self._known:
                for made in islice(self._stream, self._most):
                    self._known[made.transaction_id] = made.kind is not None
                    if made.transaction_id == transaction_id:
                        break
            return self._known.get(transaction_id)
