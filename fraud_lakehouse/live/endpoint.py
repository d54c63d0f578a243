"""The HTTP endpoint that Prometheus reads: one port, which the live cycles of a machine hand on.

What is served is decided in `live/metrics.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
PATIENCE_SECONDS = 60.0


class Endpoint:
    """Serves a registry from `open` on, as soon as the port is free, until `close` or the end of our turn, by a thread.

    The port is taken until a predecessor has seen that its turn is over. An address that cannot be had is tried again
    and again, and logged after `PATIENCE_SECONDS`, once: figures that cannot be shown stop nothing.

    Args:
        has_turn: whether the figures of this process are the ones to show.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, has_turn: Callable[[], bool]) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._has_turn = has_turn
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin to serve; nothing happens when it was called before."""
        if self._thread is None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let go of the port; it is free when this returns, and stays so."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        told_at: float | None = time.monotonic() + PATIENCE_SECONDS
        while self._is_wanted():
            try:
                server, thread = start_http_server(self._port, addr=self._host, registry=self._registry)
            except OSError as error:
                if told_at is not None and time.monotonic() >= told_at:
                    where, why = f"{self._host}:{self._port}", error.strerror or error
                    log.warning("no metrics on %s: %s; free it, or set FRAUD_METRICS_PORT to another", where, why)
                    told_at = None
                self._closing.wait(RETRY_SECONDS)
                continue
            while self._is_wanted():
                self._closing.wait(RETRY_SECONDS)
            server.shutdown()
            server.server_close()
            thread.join()

    def _is_wanted(self) -> bool:
        return not self._closing.is_set() and self._has_turn()
