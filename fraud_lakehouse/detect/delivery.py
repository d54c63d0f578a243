"""Hand recorded alerts to their destinations: each once, none waiting for another's dead destination.

Alerts are recorded in gold/alerts before anything here sees them, and each attempt is recorded in
gold/alert_deliveries as soon as the destination has answered. So an alert reaches a destination at least once, and
exactly once unless its answer is lost (no answer within the socket timeout, 4 s for most services) or the process
dies between the answer and the record of it. The alert_id is the idempotency key by which a receiver can drop such a
repeat. Processes of one machine take turns (`delivery.lock`), so that no two send the same alert.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from fraud_lakehouse.detect.deliveries import Attempt, DeliveryLog
from fraud_lakehouse.detect.destination import Destination, destinations
from fraud_lakehouse.detect.message import alert_message, digest_message
from fraud_lakehouse.detect.outbox import Backoff, Outbox, Queue
from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.lake.failpoints import failpoint
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.writer_lock import process_lock
from fraud_lakehouse.settings import Settings


@dataclass(frozen=True)
class DeliveryReport:
    """What happened since the previous report, counted per alert and destination.

    `delivered` one by one, `digested` as part of a digest, `failed` attempts, `pending` still to go; `notes` are
    sentences for people: no destination, why one failed. `seconds`: of each delivered, from the source's commit on.
    """

    delivered: int = 0
    failed: int = 0
    pending: int = 0
    digested: int = 0
    notes: tuple[str, ...] = ()
    seconds: tuple[float, ...] = ()


class Delivery:
    """Delivers the alerts of a lake to the settings' destinations.

    Args:
        backoff: when a failed destination, and a failed alert, is tried again.

    Raises:
        SettingsError: an entry of FRAUD_ALERT_URLS is wrong.
    """

    def __init__(self, settings: Settings, lake: Lake, backoff: Backoff | None = None) -> None:
        self._burst = settings.alert_burst
        self._backoff = backoff or Backoff()
        self._destinations = destinations(settings)
        self._outbox = Outbox(lake, [one.name for one in self._destinations])
        self._log = DeliveryLog(lake)
        self._lock_path = settings.work_dir / "delivery.lock"
        self._turn: ExitStack | None = None
        self._rounds: dict[str, threading.Thread] = {}
        self._closing = threading.Event()
        self._commit = threading.Lock()
        self._buffer = threading.Lock()
        self._unrecorded: list[Attempt] = []
        self._recorded: list[Attempt] = []
        self._seconds: list[float] = []

    def deliver_pending(self, wait: float = 1.0) -> DeliveryReport:
        """Start a round for each idle destination with due alerts; wait at most `wait` seconds for them.

        A round sends the due alerts; of more than `alert_burst` the highest scores one by one and the others as one
        digest. It ends at the first failure, to be tried again later. A round not finished in time goes on in the
        background and is in a later report; its destination gets no second round meanwhile.

        Raises:
            LakeError: the tables cannot be read, or an answered attempt cannot be recorded.
        """
        if not self._destinations:
            return DeliveryReport(notes=("no destination configured (FRAUD_ALERT_URLS)",))
        try:
            self._take_turn()
        except ConcurrentWriterError as error:
            return DeliveryReport(notes=(error.problem,))
        try:
            return self._deliver(wait)
        finally:
            self._end_turn()

    def _deliver(self, wait: float) -> DeliveryReport:
        idle = [one for one in self._destinations if not self._is_running(one.name)]  # before the tables are read
        self._record(())
        self._outbox.refresh()
        now = datetime.now(UTC)
        for destination in idle:
            queue = self._outbox.queues[destination.name]
            due = queue.due(now, self._backoff)
            if not due.is_empty() and not self._closing.is_set():
                self._start(destination, due, dict(queue.tries))
        self._join(wait)
        return self._report()

    def close(self, wait: float = 5.0) -> None:
        """Let no further message begin, and wait at most `wait` seconds for those under way."""
        self._closing.set()
        self._join(wait)
        self._end_turn()

    def _take_turn(self) -> None:
        """Hold the lake's delivery lock until no message of ours is under way."""
        if self._turn is None:
            turn = ExitStack()
            turn.enter_context(process_lock(self._lock_path, 0, "is delivering this lake's alerts"))
            self._turn = turn

    def _end_turn(self) -> None:
        if self._turn is not None and not any(thread.is_alive() for thread in self._rounds.values()):
            self._turn.close()
            self._turn = None

    def _is_running(self, name: str) -> bool:
        thread = self._rounds.get(name)
        return thread is not None and thread.is_alive()

    def _start(self, destination: Destination, due: pl.DataFrame, tries: dict[str, tuple[int, datetime]]) -> None:
        thread = threading.Thread(
            target=self._round, args=(destination, due, tries), name=f"alerts {destination.name}", daemon=True
        )
        self._rounds[destination.name] = thread
        thread.start()

    def _join(self, wait: float) -> None:
        until = time.monotonic() + wait
        for thread in self._rounds.values():
            thread.join(max(0.0, until - time.monotonic()))

    def _round(self, destination: Destination, due: pl.DataFrame, tries: dict[str, tuple[int, datetime]]) -> None:
        ranked = due.sort(["score", "fired_at"], descending=[True, False], nulls_last=True)
        singles = sorted(
            ranked.head(self._burst).iter_rows(named=True), key=lambda alert: tries.get(alert["alert_id"], (0,))[0]
        )  # stable: one that keeps failing comes last, so that it holds nothing up
        for alert in singles:
            if self._closing.is_set():
                return
            failpoint("alerts.before_send")
            error = destination.send(alert_message(alert))
            failpoint("alerts.after_answer")
            if not self._answered(destination, [alert["alert_id"]], "delivered", error, tries):
                return
            if (committed := alert["source_committed_at"]) is not None:
                self._seconds.append((datetime.now(UTC) - committed).total_seconds())
        rest = ranked.slice(self._burst)
        if not rest.is_empty() and not self._closing.is_set():
            error = destination.send(digest_message(rest))
            self._answered(destination, rest["alert_id"].to_list(), "digest", error, tries)

    def _answered(
        self,
        destination: Destination,
        ids: list[str],
        status: str,
        error: str | None,
        tries: dict[str, tuple[int, datetime]],
    ) -> bool:
        """Record the answer to a message; returns whether it was accepted and recorded."""
        now = datetime.now(UTC)
        if error is not None:
            error = f"digest of {len(ids)} alerts: {error}" if status == "digest" else error
            ids, status = ids[:1], "failed"
        rows = [Attempt(one, destination.name, tries.get(one, (0,))[0] + 1, now, status, error) for one in ids]
        try:
            self._record(rows)
        except LakeError:  # kept: the next deliver_pending raises it before anything is sent
            return False
        return error is None

    def _record(self, attempts: Iterable[Attempt]) -> None:
        """Commit attempts, with those of other rounds that came meanwhile; on failure they stay to be committed."""
        with self._buffer:
            self._unrecorded.extend(attempts)
        with self._commit:
            with self._buffer:
                batch = list(self._unrecorded)
            if batch:
                self._log.append(batch)
                failpoint("alerts.after_record")
                with self._buffer:
                    del self._unrecorded[: len(batch)]
                    self._recorded.extend(batch)

    def _report(self) -> DeliveryReport:
        with self._buffer:
            recorded, self._recorded = self._recorded, []
            seconds, self._seconds = self._seconds, []
        if recorded:
            self._outbox.refresh()
        count = {status: sum(one.status == status for one in recorded) for status in ("delivered", "digest", "failed")}
        failures = {one.destination: one for one in recorded if one.status == "failed"}
        return DeliveryReport(
            delivered=count["delivered"],
            failed=count["failed"],
            pending=sum(queue.pending.height for queue in self._outbox.queues.values()),
            digested=count["digest"],
            notes=tuple(self._note(one, self._outbox.queues[one.destination]) for one in failures.values()),
            seconds=tuple(seconds),
        )

    def _note(self, failed: Attempt, queue: Queue) -> str:
        retry = ""
        if queue.failures and queue.last_failed_at:
            retry = f"; next try at {self._backoff.until(queue.failures, queue.last_failed_at):%T} UTC"
        return f"{failed.destination}: attempt {failed.attempt} failed: {failed.error}{retry}"
