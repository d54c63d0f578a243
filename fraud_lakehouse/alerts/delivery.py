"""Deliver recorded alerts to their destinations: each once; a failing destination delays no other.

Alerts are recorded in gold/alerts before anything here reads them. As soon as a destination has answered, the attempt
is written to local disk (journal.py); within half a second it is committed to gold/alert_deliveries. So an alert
reaches a destination at least once. It is sent again only if the answer is lost (none within 4 s for most services, or
an incomplete one within 15 s, see sending.py), or if the process dies between the answer and the journal. The alert_id
is the idempotency key by which a receiver can drop the repeat. The lock `delivery.lock` ensures that two processes of a
machine never send the same alert. A process that was stopped while it held the lock, and replaced, sends nothing more
when it resumes, except the message it was sending.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from zlib import crc32

import polars as pl

from fraud_lakehouse.alerts.deliveries import Attempt, DeliveryLog
from fraud_lakehouse.alerts.destination import Destination, destinations
from fraud_lakehouse.alerts.journal import Journal
from fraud_lakehouse.alerts.message import alert_message, digest_message
from fraud_lakehouse.alerts.outbox import Backoff, Outbox, Queue, Tries
from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import Lease
from fraud_lakehouse.storage.writer_lock import process_lock

log = logging.getLogger(__name__)

DIGEST_ALERTS = 10_000  # per message: the backlog of a failed destination is loaded into memory in pieces
RECORD_SECONDS = 0.5  # between commits of attempts: one commit per attempt would take most of a round


@dataclass(frozen=True)
class DeliveryReport:
    """What happened since the previous report, counted per alert and destination.

    `delivered` one by one, `digested` as part of a digest, `failed` attempts, `pending` alerts; `notes` are sentences
    for people: no destination, why one failed. `seconds`: from the source's commit to delivery, per delivered alert.
    """

    delivered: int = 0
    failed: int = 0
    pending: int = 0
    digested: int = 0
    notes: tuple[str, ...] = ()
    seconds: tuple[float, ...] = ()

    def after(self, earlier: DeliveryReport) -> DeliveryReport:
        """This report merged with the previous one."""
        return DeliveryReport(
            earlier.delivered + self.delivered,
            earlier.failed + self.failed,
            self.pending,
            earlier.digested + self.digested,
            tuple(dict.fromkeys((*earlier.notes, *self.notes))),
            (*earlier.seconds, *self.seconds),
        )


class Delivery:
    """Delivers the alerts of a lake to the settings' destinations.

    Args:
        backoff: when a failed destination, or a failed alert, is tried again.
        clock: returns the current time, UTC.

    Raises:
        SettingsError: an entry of FRAUD_ALERT_URLS is invalid.
    """

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        backoff: Backoff | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._burst = settings.alert_burst
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._destinations = destinations(settings)
        self._outbox = Outbox(lake, [one.name for one in self._destinations])
        self._log = DeliveryLog(lake)
        self._journal = Journal(settings.work_dir / f"deliveries-{crc32(lake.root.encode()):08x}.jsonl")
        self._lock_path = settings.work_dir / "delivery.lock"
        self._work_lock: ExitStack | None = None
        self._lease: Lease | None = None  # of the lock
        self._rounds: dict[str, threading.Thread] = {}
        self._closing = threading.Event()
        self._commit = threading.Lock()
        self._buffer = threading.Lock()
        self._unrecorded: list[Attempt] = []  # while it is not empty, the lock is kept
        self._record_due = 0.0
        self._recorded: list[Attempt] = []
        self._seconds: list[float] = []

    def deliver_pending(self, wait: float = 1.0) -> DeliveryReport:
        """Start a round for each idle destination with due alerts; wait at most `wait` seconds for them.

        A round sends the due alerts. If there are more than `alert_burst`, those with the highest scores are sent one
        by one and the others, at most `DIGEST_ALERTS`, as one digest. A round ends at the first failure, to be retried
        later. An unfinished round continues in the background and appears in a later report; until it ends, its
        destination gets no other round.

        Raises:
            LakeError: the tables cannot be read, or an answered attempt can be neither journaled nor recorded.
        """
        """
        """
        if not self._destinations:
            return DeliveryReport(notes=("no destination configured (FRAUD_ALERT_URLS)",))
        try:
            self._acquire_lock()
        except ConcurrentWriterError as error:
            return DeliveryReport(notes=(error.problem,))
        try:
            return self._deliver(wait)
        finally:
            self._release_lock()

    def _deliver(self, wait: float) -> DeliveryReport:
        idle = [one for one in self._destinations if not self._is_running(one.name)]  # before reading the tables
        self._record()
        self._outbox.refresh()
        now = self._clock()
        for destination in idle:
            queue = self._outbox.queues[destination.name]
            due = queue.due(now, self._backoff)
            if not due.is_empty() and self._may_send(self._lease):
                self._start(destination, due, dict(queue.tries))
        self._join(wait)
        return self._report()

    def close(self, wait: float = 5.0) -> None:
        """Start no further message, and wait at most `wait` seconds for those in progress."""
        self._closing.set()
        self._join(wait)
        self._release_lock()  # unrecorded attempts are in the journal

    def _acquire_lock(self) -> None:
        """Acquire the lake's delivery lock, unless this process holds it; it is kept while messages are in progress."""
        if self._work_lock is not None and not self._is_ours:
            self._work_lock.close()
            self._work_lock = None
        if self._work_lock is None:
            with ExitStack() as lock:
                self._lease = lock.enter_context(process_lock(self._lock_path, 0, "is delivering this lake's alerts"))
                self._recover()
                self._work_lock = lock.pop_all()

    @property
    def _is_ours(self) -> bool:
        """Whether this process still holds the lock; another takes it over if this one does not respond for long."""
        return self._lease is not None and self._lease.is_ours

    def _may_send(self, lease: Lease | None) -> bool:
        """Whether a round that began with this lease may send another message."""
        return lease is not None and lease.is_ours and not self._closing.is_set()

    def _recover(self) -> None:
        """Record what a process journaled and did not record before it died."""
        if noted := self._journal.read():
            if missing := self._log.missing(noted):
                self._log.append(missing)
            self._journal.replace(())

    def _release_lock(self) -> None:
        busy = self._unrecorded or any(thread.is_alive() for thread in self._rounds.values())
        if self._work_lock is not None and not busy:
            self._work_lock.close()
            self._work_lock = None

    def _is_running(self, name: str) -> bool:
        thread = self._rounds.get(name)
        return thread is not None and thread.is_alive()

    def _start(self, destination: Destination, due: pl.DataFrame, tries: dict[str, Tries]) -> None:
        thread = threading.Thread(
            target=self._round,
            args=(destination, due, tries, self._lease),
            name=f"alerts {destination.name}",
            daemon=True,
        )
        self._rounds[destination.name] = thread
        thread.start()

    def _join(self, wait: float) -> None:
        until = time.monotonic() + wait
        for thread in self._rounds.values():
            thread.join(max(0.0, until - time.monotonic()))

    def _round(self, destination: Destination, due: pl.DataFrame, tries: dict[str, Tries], lease: Lease | None) -> None:
        try:
            self._send_all(destination, due, tries, lease)
        except LakeError as error:
            log.warning("alerts for %s wait: %s", destination.name, error)
        with suppress(LakeError):  # attempts are kept: the next deliver_pending raises it before it sends anything
            self._record()

    def _send_all(
        self, destination: Destination, due: pl.DataFrame, tries: dict[str, Tries], lease: Lease | None
    ) -> None:
        ranked = due.sort(["score", "fired_at"], descending=[True, False], nulls_last=True)
        singles = sorted(
            self._outbox.rows.of(ranked.head(self._burst)).iter_rows(named=True),
            key=lambda alert: _attempts(tries, alert["alert_id"]),
        )  # stable sort: an alert that keeps failing comes last, so that it delays no other
        for alert in singles:
            if not self._may_send(lease):
                return
            failpoint("alerts.before_send")
            error = destination.send(alert_message(alert))
            failpoint("alerts.after_answer")
            if not self._answered(destination, [alert["alert_id"]], "delivered", error, tries):
                return
            self._time([alert["source_committed_at"]])
        rest = self._outbox.rows.of(ranked.slice(self._burst, DIGEST_ALERTS))
        if not rest.is_empty() and self._may_send(lease):
            error = destination.send(digest_message(rest))
            if self._answered(destination, rest["alert_id"].to_list(), "digest", error, tries):
                self._time(rest["source_committed_at"].to_list())

    def _time(self, committed: Sequence[datetime | None]) -> None:
        """Record the time from the source's commit to delivery."""
        now = self._clock()
        with self._buffer:
            self._seconds.extend((now - one).total_seconds() for one in committed if one is not None)

    def _answered(
        self,
        destination: Destination,
        ids: list[str],
        status: str,
        error: str | None,
        tries: dict[str, Tries],
    ) -> bool:
        """Record the answer to a message; returns whether it was accepted and recorded."""
        now = self._clock()
        if error is not None:
            error = f"digest of {len(ids)} alerts: {error}" if status == "digest" else error
            ids, status = ids[:1], "failed"
        rows = [Attempt(one, destination.name, _attempts(tries, one) + 1, now, status, error) for one in ids]
        try:
            self._note_attempts(rows)
            if time.monotonic() >= self._record_due:
                self._record()
        except LakeError:  # attempts are kept: the next deliver_pending raises it before it sends anything
            return False
        return error is None

    def _note_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Write attempts to the journal, to be recorded soon; without a journal they are recorded at once."""
        with self._buffer:
            self._unrecorded.extend(attempts)
            try:
                if self._is_ours:
                    self._journal.add(attempts)
            except LakeError:
                self._record_due = 0.0
                log.warning("deliveries are recorded one by one, without a journal", exc_info=True)
        failpoint("alerts.after_journal")

    def _record(self) -> None:
        """Commit the attempts of all rounds; after a failure they are kept for the next commit."""
        with self._commit:
            with self._buffer:
                batch = list(self._unrecorded)
            if batch:
                self._log.append(batch)
                failpoint("alerts.after_record")
                with self._buffer:
                    del self._unrecorded[: len(batch)]
                    self._recorded.extend(batch)
                    if self._is_ours:
                        self._journal.replace(self._unrecorded)
                self._record_due = time.monotonic() + RECORD_SECONDS

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
        due = queue.next_try(failed.alert_id, self._backoff)
        retry = f"; next try at {due:%T} UTC" if due else ""
        return f"{failed.destination}: attempt {failed.attempt} failed: {failed.error}{retry}"


def _attempts(tries: Mapping[str, Tries], alert_id: str) -> int:
    """Number of failed attempts so far."""
    return tries[alert_id].attempt if alert_id in tries else 0
