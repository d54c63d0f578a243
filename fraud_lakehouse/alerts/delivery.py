"""Hand recorded alerts to their destinations: each once, none waiting for another's dead destination.

Alerts are recorded in gold/alerts before anything here sees them. Each attempt is noted on local disk (journal.py) as
soon as the destination has answered, and committed to gold/alert_deliveries within half a second. So an alert reaches
a destination at least once, and exactly once unless its answer is lost (none within 4 s for most services, or not all
of it within 15 s, see sending.py) or the process dies between the answer and the note of it. The alert_id is the
idempotency key by which a receiver can drop such a repeat. Processes of one machine take turns (`delivery.lock`), so
that no two send the same alert. One that was stopped in its turn and replaced sends nothing more when it goes on,
except the message it was in.
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

DIGEST_ALERTS = 10_000  # of one message: what waited for a dead destination is brought into memory bit by bit
RECORD_SECONDS = 0.5  # of attempts: a commit of each would take most of a round


@dataclass(frozen=True)
class DeliveryReport:
    """What happened since the previous report, counted per alert and destination.

    `delivered` one by one, `digested` as part of a digest, `failed` attempts, `pending` still to go; `notes` are
    sentences for people: no destination, why one failed. `seconds`: of each that arrived, from the source's commit on.
    """

    delivered: int = 0
    failed: int = 0
    pending: int = 0
    digested: int = 0
    notes: tuple[str, ...] = ()
    seconds: tuple[float, ...] = ()

    def after(self, earlier: DeliveryReport) -> DeliveryReport:
        """This report and the one before it as one."""
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
        backoff: when a failed destination, and a failed alert, is tried again.
        clock: gives the time, UTC.

    Raises:
        SettingsError: an entry of FRAUD_ALERT_URLS is wrong.
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
        self._turn: ExitStack | None = None
        self._lease: Lease | None = None  # of the turn
        self._rounds: dict[str, threading.Thread] = {}
        self._closing = threading.Event()
        self._commit = threading.Lock()
        self._buffer = threading.Lock()
        self._unrecorded: list[Attempt] = []  # while there is one, the turn is kept
        self._record_due = 0.0
        self._recorded: list[Attempt] = []
        self._seconds: list[float] = []

    def deliver_pending(self, wait: float = 1.0) -> DeliveryReport:
        """Start a round for each idle destination with due alerts; wait at most `wait` seconds for them.

        A round sends the due alerts; of more than `alert_burst` the highest scores one by one and the others, at most
        `DIGEST_ALERTS`, as one digest. It ends at the first failure, to be tried again later. A round not finished in
        time goes on in the background and is in a later report; its destination gets no second round meanwhile.

        Raises:
            LakeError: the tables cannot be read, or an answered attempt can be neither noted nor recorded.
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
        """Let no further message begin, and wait at most `wait` seconds for those under way."""
        self._closing.set()
        self._join(wait)
        self._end_turn()  # else with the process; what is not recorded then is in the journal

    def _take_turn(self) -> None:
        """Hold the lake's delivery lock until no message of ours is under way."""
        if self._turn is not None and not self._is_ours:
            self._turn.close()
            self._turn = None
        if self._turn is None:
            with ExitStack() as turn:
                self._lease = turn.enter_context(process_lock(self._lock_path, 0, "is delivering this lake's alerts"))
                self._recover()
                self._turn = turn.pop_all()

    @property
    def _is_ours(self) -> bool:
        """Whether nobody has taken our turn over, which somebody does when this process has not answered for long."""
        return self._lease is not None and self._lease.is_ours

    def _may_send(self, lease: Lease | None) -> bool:
        """Whether another message of a round may begin, which began with this lease."""
        return lease is not None and lease.is_ours and not self._closing.is_set()

    def _recover(self) -> None:
        """Record what a process noted that died before it had recorded it."""
        if noted := self._journal.read():
            if missing := self._log.missing(noted):
                self._log.append(missing)
            self._journal.replace(())

    def _end_turn(self) -> None:
        busy = self._unrecorded or any(thread.is_alive() for thread in self._rounds.values())
        if self._turn is not None and not busy:
            self._turn.close()
            self._turn = None

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
        with suppress(LakeError):  # kept: the next deliver_pending raises it before anything is sent
            self._record()

    def _send_all(
        self, destination: Destination, due: pl.DataFrame, tries: dict[str, Tries], lease: Lease | None
    ) -> None:
        ranked = due.sort(["score", "fired_at"], descending=[True, False], nulls_last=True)
        singles = sorted(
            self._outbox.rows.of(ranked.head(self._burst)).iter_rows(named=True),
            key=lambda alert: _attempts(tries, alert["alert_id"]),
        )  # stable: one that keeps failing comes last, so that it holds nothing up
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
        """Note how long alerts that have arrived took from their source's commit."""
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
        except LakeError:  # kept: the next deliver_pending raises it before anything is sent
            return False
        return error is None

    def _note_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Put attempts into the journal, to be recorded soon; where it cannot be written they are recorded now."""
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
        """Commit the attempts noted by all rounds; on failure they stay to be committed."""
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
    """Failed attempts so far."""
    return tries[alert_id].attempt if alert_id in tries else 0
