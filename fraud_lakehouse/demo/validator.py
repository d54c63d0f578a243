"""The demo's validator of transfers: an HTTP service that knows which transfers the generator made fraudulent."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fraud_lakehouse.demo.services import HOST


class DemoValidator:
    """Answers `POST /validate` in threads of its own, from `frauds`, ids that may be added at any time.

    Args:
        port: of the loopback address; 0: any free one.
    """

    def __init__(self, port: int) -> None:
        self.frauds: set[str] = set()
        frauds = self.frauds

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                try:
                    name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["transaction_id"]
                except (KeyError, TypeError, ValueError):
                    self._answer(400, {"error": "expected a JSON object with transaction_id"})
                    return
                if self.path != "/validate":
                    self._answer(404, {"error": "expected POST /validate"})
                    return
                self._answer(200, {"is_fraudulent_transaction": name in frauds})

            def _answer(self, status: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """No line for each request."""

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="validator", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
