"""dbt's documentation as one static page, with the actual columns of the lake's tables."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fraud_lakehouse.errors import LakehouseError, TransformError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.runner import Transformer


def write_site(settings: Settings, folder: Path) -> Path:
    """Write `index.html`, a self-contained page; returns its path.

    Raises:
        TransformError: dbt failed.
    """
    transformer = Transformer(settings)
    try:
        return transformer.documentation(folder)
    except OSError as error:
        raise TransformError(
            f"the dbt docs cannot be written to {folder}: {error}", "choose another --folder"
        ) from error
    finally:
        transformer.close()


def serve_site(folder: Path, port: int, host: str = "127.0.0.1") -> None:
    """Serve the folder until interrupted.

    Raises:
        LakehouseError: the port is in use.
    """
    handler = partial(QuietHandler, directory=str(folder))
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise LakehouseError(
            f"cannot serve on {host}:{port}: {error.strerror}", "choose another --serve port"
        ) from error
    print(f"dbt docs at http://{host}:{server.server_port}", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without logging each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
