"""PostgreSQL to bronze, exactly once: decides what is due at each step.

In order: check that it is the server the lake was filled from (postgres_identity.py); take a snapshot (snapshot.py) or
resync (resync_run.py) that is due; find tables that appeared or changed without a message in the log; then read the log
(changes.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Self

from fraud_lakehouse.errors import ConcurrentWriterError, GapError, SourceError
from fraud_lakehouse.ingest.base import Waiting
from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.ingest.changes import ChangeIngest
from fraud_lakehouse.ingest.evolution import Ineligible, evolve, other_owner, recorded_names, resync_reason
from fraud_lakehouse.ingest.ingested import Ingested
from fraud_lakehouse.ingest.postgres_identity import PostgresIdentity, identity_detail
from fraud_lakehouse.ingest.resync_run import Resync, ResyncReport
from fraud_lakehouse.ingest.snapshot import SnapshotIngest
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import declared_sources, postgres_source
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.eligibility import Ineligibility
from fraud_lakehouse.sources.postgres.errors import (
    SlotAheadError,
    SlotLostError,
    SlotRenamedError,
    SourceBusyError,
    SourceTableError,
    TableFailedError,
    TimelineChangedError,
    one_table,
)
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake

log = logging.getLogger(__name__)

LOG = "log"  # a database has a single log to read
NEW_TABLES_SECONDS = 10.0
BUSY_SECONDS = 60.0  # until a snapshot or resync that was blocked by a long transaction or a lock is tried again
MOST_BUSY_SECONDS = 900.0  # each failure of a table doubles its delay


class PostgresIngest:
    """Ingests one PostgreSQL source. Tables stay open between steps; one instance per thread.

    Args:
        config: the source; default: the only database.
        capture: its reader. Opened at the first step.

    Raises:
        SettingsError: there is no database, or several and none is named.
    """

    has_observed = False
    """Databases have no heartbeats."""

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        config: PostgresConfig | None = None,
        capture: PostgresCapture | None = None,
    ) -> None:
        self.settings = settings
        self.lake = lake
        self.capture = capture or open_capture(settings, lake, config)
        self._ready = False
        self._poll_due = 0.0
        self._busy_until = 0.0
        self._in_step: dict[str, tuple[int, TableInfo, str | None]] = {}
        """By bronze name: the version that was checked, and the description and publication epoch it matched."""
        self._retries: dict[int, tuple[float, float]] = {}  # by oid: when a failed table is tried again, and the delay

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source's connections; nothing needs to be saved."""
        self._ready = False
        self.capture.close()

    @property
    def name(self) -> str:
        """The source's name."""
        return self.capture.config.name

    @property
    def update_delay(self) -> float:
        """Seconds between reads; 0 reads as soon as there are rows."""
        return self.capture.config.update_delay

    @property
    def due(self) -> float:
        """When a step next reads the catalog, even if the log has nothing (monotonic clock)."""
        return self._poll_due

    def wait(self, timeout: float) -> bool:
        """Whether the log has something new, waiting at most `timeout` seconds for it.

        Raises:
            SourceError: the server is unreachable.
        """
        with self.capture.config.named():
            return self.capture.wait(timeout)

    def waiting(self) -> Waiting:
        """The backlog: the log beyond the slot's position.

        Raises:
            SourceError: the server is unreachable.
        """
        lag = self.capture.lag()
        return Waiting(size=lag.bytes_behind, retained=lag.retained_bytes, ends={LOG: lag.current_lsn})

    def position(self) -> Mapping[str, int]:
        """The LSN up to which the log was read."""
        return {LOG: self.capture.seen_lsn}

    def set_blocking(self, blocking: bool) -> None:
        """Whether a step blocks while the server is unreachable; otherwise it fails fast."""
        self.capture.set_blocking(blocking)

    def step(self, max_rows: int) -> list[Ingested]:
        """Ingest what is due: a snapshot, a resync or one batch of about `max_rows` changes.

        Returns:
            what was ingested, one item per table with rows; [] when the source is drained.

        Raises:
            SourceError: the source cannot be read; the next step repeats the checks.
            GapError: changes are lost, or the source is another one; recorded in control/audit.
            ConcurrentWriterError: another writer committed first; nothing was written twice, the next step continues.
            LakeError: the lake could not be written; nothing was acknowledged.
        """
        try:
            with self._audit.gaps(self.name), self.capture.config.named(), self._overtaken():
                return self._step(max_rows)
        except TimelineChangedError:
            self._start_over()
            return self.step(max_rows)
        except BaseException:
            self._start_over()  # the next step continues from the lake's position, as a new process does
            raise

    def resync(self, names: Sequence[str] = ()) -> ResyncReport:
        """Make tables match the source without a gap; if the slot was lost, recreate it and resync all tables.

        The caller holds the writer's lock.

        Args:
            names: bronze names, or `[schema.]table` of the source; if empty, every captured table.

        Raises:
            SourceTableError: no such table is captured. SourceError: the table is ineligible; raised after the others
                were resynced. Otherwise as `step`.
        """
        self._start_over()
        try:
            with self._audit.gaps(self.name), self.capture.config.named():
                self._refresh()
                self._start_or_give_up()
                self._ready = True
                tables = self.capture.tables()
                wanted = [_captured(tables, self.capture.refused, name) for name in names] or tables
                self._retries.clear()
                self._poll()
                done = self._resync.last
                if done is None or not {info.name for info in wanted} <= set(done.found):
                    done = self._resync.run(wanted, new_slot=False, because={i.name: "asked for" for i in wanted})
                for info in wanted:
                    if (why := Ineligible.of(self._changes.table(info).properties)) is not None:
                        raise SourceTableError(why.problem, why.fix)
                return done
        except (SourceError, GapError, ConcurrentWriterError):
            self._start_over()
            raise

    @cached_property
    def _audit(self) -> Audit:
        return Audit(self.lake)

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.lake)

    @cached_property
    def _changes(self) -> ChangeIngest:
        return ChangeIngest(self.lake, self.capture, self._batches)

    @cached_property
    def _snapshot(self) -> SnapshotIngest:
        return SnapshotIngest(self.capture, self._changes, self._batches, self._audit)

    @cached_property
    def _resync(self) -> Resync:
        return Resync(self.settings, self.lake, self.capture, self._changes, self._batches, self._audit)

    @cached_property
    def _identity(self) -> PostgresIdentity:
        return PostgresIdentity(self._audit, self.capture)

    def _start_over(self) -> None:
        """Make the next step repeat all checks, with whichever server answers then."""
        self._ready = False
        self._poll_due = 0.0
        self._in_step.clear()
        self.capture.forget_server()

    def _step(self, max_rows: int) -> list[Ingested]:
        self._refresh()
        if not self._ready:
            ingested = self._start()
            self._ready = True
            if ingested:
                return ingested
        if ingested := self._read_catalog():
            return ingested
        return self._changes.land(max_rows)

    @contextmanager
    def _overtaken(self) -> Iterator[None]:
        """A slot ahead of our position is no gap if another writer has committed a later position meanwhile."""
        try:
            yield
        except SlotAheadError as ahead:
            known = self._batches.position(self.capture.app_id)
            self._batches.refresh()
            if self._batches.position(self.capture.app_id) == known:
                raise
            raise ConcurrentWriterError(
                "another writer ingested changes of the same slot meanwhile", "the next step continues after them"
            ) from ahead

    def _refresh(self) -> None:
        before = self._batches.version
        self._batches.refresh()
        if not self._ready or self._batches.version != before:
            self._changes.refresh()

    def _start(self) -> list[Ingested]:
        """Check the source, then its slot; ingest what must come before the log."""
        position = self._batches.position(self.capture.app_id)
        order = self._audit.order(self.name, self.capture.app_id, position)
        self._identity.check(position)
        try:
            self.capture.preflight(position)
        except SlotLostError:  # recreated below, unless the lake has a position in it
            if position is not None and order is None:
                self.capture.resume(position)
                raise
        self._identity.register()
        ingested: list[Ingested] = []
        if order in ("resync_started", "slot_forgotten"):
            ingested = self._resync.run(self.capture.seen_tables, new_slot=True, because={}).ingested
        elif position is None or order == "accepted":
            ingested = self._snapshot.land(self.capture.seen_tables, new_slot=True)
        else:
            self.capture.resume(position)
        self._audit.resumed(self.name)
        self._changes.dropped = self._positions_of_dropped_tables()
        return ingested

    def _start_or_give_up(self) -> None:
        """Start; if the slot's changes are lost, give up its position and start with a resync of everything."""
        try:
            self._start()
        except (SlotLostError, SlotAheadError, SlotRenamedError) as lost:
            position = self._batches.position(self.capture.app_id)
            detail = {**identity_detail(self.capture), "position": position, "because": lost.problem}
            self._audit.record(self.name, "resync_started", detail)
            self._start()

    def _positions_of_dropped_tables(self) -> dict[str, int]:
        """Positions of bronze tables that the source has dropped: the log may still have their last events."""
        present = {info.name for info in self.capture.seen_tables}
        found = {}
        for name in self.lake.tables("bronze"):
            if name not in present:
                position = self.lake.open("bronze", name).transaction_version(self.capture.app_id_of(name))
                if position is not None:
                    found[name] = position
        return found

    def _read_catalog(self) -> list[Ingested]:
        """Every NEW_TABLES_SECONDS, check the catalog for changes that are not in the log."""
        if time.monotonic() < self._poll_due:
            return []
        ingested = self._poll()
        self._poll_due = time.monotonic() + NEW_TABLES_SECONDS
        return ingested

    def _poll(self) -> list[Ingested]:
        """Ingest tables that are new, or whose first snapshot was interrupted; resync those changed outside the log."""
        tables = self.capture.tables()
        self._changes.waiting = self._waiting(tables)
        new = [info for info in tables if self._changes.position(info) is None and self._is_due(info)]
        ingested = self._unless_busy("a snapshot", new, lambda: self._snapshot.land(new, new_slot=False))
        if not ingested:
            because = self._resync_reasons(tables)
            changed = [info for info in tables if info.name in because and self._is_due(info)]
            resync = partial(self._resync.run, changed, new_slot=False, because=because)
            ingested = self._unless_busy("a resync", changed, lambda: resync().ingested)
        self._changes.waiting = self._waiting(tables)
        return ingested

    def _resync_reasons(self, tables: Sequence[TableInfo]) -> dict[str, str]:
        """By bronze name, why ingested tables need a resync."""
        members = self.capture.memberships(tables)
        because = {}
        for info in tables:
            if self._changes.position(info) is None:
                continue
            table, described = self._changes.table(info), (replace(info, lsn=0), members.get(info.name))
            if self._in_step.get(info.name) == (table.version, *described):
                continue
            try:
                with one_table(info.name, info.oid, f"changing the columns of {info.source_name}"):
                    if Ineligible.of(table.properties) is None:
                        evolve(table, info)
                    reason = resync_reason(table, info, members.get(info.name))
            except TableFailedError as failed:
                self._changes.leave_out(failed)
            else:
                if reason is not None:
                    because[info.name] = reason
                else:
                    self._in_step[info.name] = (table.version, *described)
        return because

    def _waiting(self, tables: Sequence[TableInfo]) -> set[int]:
        """Oids of tables whose changes in the log are skipped, because a snapshot or resync is due first."""
        members = self.capture.memberships(tables)
        return {
            info.oid
            for info in tables
            if self._changes.position(info) is None
            or info.name not in members
            or Ineligible.of(self._changes.table(info).properties) is not None
        }

    def _is_due(self, info: TableInfo) -> bool:
        due, _ = self._retries.get(info.oid, (0.0, 0.0))
        return time.monotonic() >= due

    def _postpone_failed(self, tables: Sequence[TableInfo]) -> None:
        """Schedule the next attempt of the tables that failed."""
        for info in tables:
            _, pause = self._retries.pop(info.oid, (0.0, 0.0))
            if Ineligible.of(self._changes.table(info).properties) is not None:
                pause = min(2 * pause or BUSY_SECONDS, MOST_BUSY_SECONDS)
                self._retries[info.oid] = time.monotonic() + pause, pause

    def _unless_busy(
        self, what: str, tables: Sequence[TableInfo], action: Callable[[], list[Ingested]]
    ) -> list[Ingested]:
        """Run it; if another session's transaction or lock blocks it, postpone it and continue with the log."""
        if not tables or time.monotonic() < self._busy_until:
            return []
        try:
            ingested = action()
            self._postpone_failed(tables)
            return ingested
        except SourceBusyError as busy:
            log.warning("%s of %s is postponed: %s", what, ", ".join(info.name for info in tables), busy)
            self._busy_until = time.monotonic() + BUSY_SECONDS
            return []


def open_capture(settings: Settings, lake: Lake, config: PostgresConfig | None = None) -> PostgresCapture:
    """The reader of a database, with the existing names of its tables; not yet connected.

    Args:
        config: the source; default: the only database.

    Raises:
        SettingsError: there is no database, or several and none is named; or its connection string cannot be parsed.
    """
    config = config or postgres_source(settings)
    others = [one for one in declared_sources(settings) if one.config is not None and one.name != config.name]
    declared = {table: one.name for one in others for table in one.tables}
    ours: set[str] = set()

    def owner(name: str) -> str | None:
        if name in ours:
            return None
        if not lake.exists("bronze", name):
            return declared.get(name)
        found = other_owner(lake, config, name)
        if found is None:
            ours.add(name)
        return found

    return PostgresCapture(settings, config, recorded_names(lake, config), owner)


def _captured(tables: Sequence[TableInfo], refused: Sequence[Ineligibility], name: str) -> TableInfo:
    """The captured table of that name.

    Raises:
        SourceTableError: there is none; names the captured ones. SourceError: the table is ineligible.
    """
    for info in tables:
        if name in (info.name, info.source_name, info.table):
            return info
    for ineligibility in refused:
        if name in (ineligibility.name, ineligibility.table, ineligibility.table.partition(".")[2]):
            raise ineligibility.error
    raise SourceTableError(
        f"no table {name} is captured", f"name one of: {', '.join(sorted(info.name for info in tables))}"
    )
