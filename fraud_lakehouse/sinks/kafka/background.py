"""Publishing in the background worker: a thread that polls for new rows every second.

An unreachable broker, or one that rejects the client, is reported as a problem and retried with growing pauses.
"""

from __future__ import annotations

import logging
import threading

from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sinks.kafka.errors import FencedError
from fraud_lakehouse.sinks.kafka.publisher import Publisher
from fraud_lakehouse.storage.lake import Lake

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # polling a local lake costs four file lookups
REMOTE_LOOK_SECONDS = 10.0
PAUSES = (1.0, 5.0, 30.0, 60.0)
_LAST_TRANSACTION_SECONDS = 5.0


class PublishWorker:
    """The publishing thread; does nothing if publishing is switched off. A context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        self.problem: str | None = None
        """Why features are not published now, for people."""

    def __enter__(self) -> PublishWorker:
        if self._settings.publish_features:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._settings.publish_features:
            self._thread.join(_LAST_TRANSACTION_SECONDS)  # an interrupted transaction is aborted and published later

    def _run(self) -> None:
        publisher: Publisher | None = None
        failures = 0
        while not self._ended.is_set():
            try:
                publisher = publisher or Publisher(self._settings, Lake.at(self._settings.lake))
                publisher.step(self._ended.is_set)
            except FencedError as error:
                # A catch-up or a Dagster run published in between. Once is normal; it is over when we have the lock.
                self.problem = str(error) if failures else None
                self._ended.wait(PAUSES[min(failures, len(PAUSES) - 1)])
                failures += 1
            except LakehouseError as error:
                if self.problem != str(error):
                    log.warning("features are not published: %s", error)
                self.problem = str(error)
                self._ended.wait(PAUSES[min(failures, len(PAUSES) - 1)])
                failures += 1
            else:
                self.problem, failures = None, 0
                self._ended.wait(LOOK_SECONDS if self._settings.is_local else REMOTE_LOOK_SECONDS)
        if publisher is not None:
            publisher.close()
