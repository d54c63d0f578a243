"""The HTTP endpoint that Prometheus scrapes: one port, handed from one live process of a machine to the next.

`live/metrics.py` decides what is served.
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
    """Serves a registry in a thread, from `open` until `close` or until this process loses the live lock.

    The port stays in use until the previous process notices that it lost the lock. Until it can be bound, the address
    is retried; after `PATIENCE_SECONDS` this is logged once. Missing metrics stop nothing.

    Args:
        holds_lock: whether this process holds the live lock.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, holds_lock: Callable[[], bool]) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._holds_lock = holds_lock
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start serving; does nothing if called before."""
        if self._thread is None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Release the port; it is free when this returns, and stays so."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        warn_at: float | None = time.monotonic() + PATIENCE_SECONDS
        while self._is_wanted():
            try:
                server, thread = start_http_server(self._port, addr=self._host, registry=self._registry)
            except OSError as error:
                if warn_at is not None and time.monotonic() >= warn_at:
                    where, why = f"{self._host}:{self._port}", error.strerror or error
                    log.warning("no metrics on %s: %s; free it, or set FRAUD_METRICS_PORT to another", where, why)
                    warn_at = None
                self._closing.wait(RETRY_SECONDS)
                continue
            while self._is_wanted():
                self._closing.wait(RETRY_SECONDS)
            server.shutdown()
            server.server_close()
            thread.join()

    def _is_wanted(self) -> bool:
        return not self._closing.is_set() and self._holds_lock()
