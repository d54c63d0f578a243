"""A schema registry for tests: the part of the Confluent API by which readers find schemas, over real HTTP."""

from __future__ import annotations

import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

from fastavro import parse_schema, schemaless_writer


class SchemaRegistry:
    """Schemas by id, which `add` gives; `requests` are the paths fetched; a `status` but 200 answers all."""

    def __init__(self, port: int = 0) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.status = 200
        self.broken: set[int] = set()
        """Schemas that it cannot give for now."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.requests.append(self.path)
                status, answer = registry.answer(self.path)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, schema: Any, references: list[dict[str, Any]] | None = None) -> int:
        number = len(self.schemas) + 1
        self.schemas[number] = {"schema": json.dumps(schema), "references": references or []}
        return number

    def answer(self, path: str) -> tuple[int, Any]:
        if self.status != 200:
            return self.status, {"error_code": self.status, "message": "not now"}
        parts = path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["schemas", "ids"] and int(parts[2]) in self.broken:
            return 503, {"error_code": 50301, "message": "not now"}
        if parts[:2] == ["schemas", "ids"] and int(parts[2]) in self.schemas:
            return 200, self.schemas[int(parts[2])]
        if parts[0] == "subjects" and int(parts[1]) in self.schemas:  # a subject of tests is the number of its schema
            return 200, {"subject": parts[1], "version": 1, "id": int(parts[1]), **self.schemas[int(parts[1])]}
        return 404, {"error_code": 40403, "message": "Schema not found"}


def written(number: int, schema: Any, value: Any) -> bytes:
    """A value in the registry's wire format."""
    stream = io.BytesIO()
    schemaless_writer(stream, parse_schema(json.loads(json.dumps(schema))), value)
    return b"\0" + number.to_bytes(4, "big") + stream.getvalue()
