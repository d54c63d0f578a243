"""What a sensor sees of a source: whether it has data beyond the lake's position, and that range as a name.

Only positions are read, never rows. The range names the run that will ingest it, so the same data twice is one run. For
a topic without new data, a heartbeat may be due (ingest/idle_partitions.py): a run records it, and models use it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from fraud_lakehouse.errors import GapError
from fraud_lakehouse.sources.configured import SourceConfig
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings

RETRY_SECONDS = 3_600.0  # between runs that retry an ineligible table
MOST_PARTITIONS_NAMED = 8
IDLE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class NewData:
    """A range of positions that a source has and the lake does not.

    `subject` is the source or topic; `range` is `0/16B3748-0/16B5F10` or `0:100-250,1:90-200`; for a topic without new
    data whose heartbeat is due, it is `idle-2026-01-02T03:04:05.006000+00:00`.
    """

    subject: str
    range: str

    @property
    def run_key(self) -> str:
        """The name of the run that ingests this range."""
        return f"{self.subject}:{self.range}"


def lsn_range(start: int, end: int) -> str:
    """A range of PostgreSQL log positions in PostgreSQL's own notation."""
    return f"{_lsn(start)}-{_lsn(end)}"


def offset_range(offsets: dict[int, tuple[int, int]]) -> str:
    """A range of offsets per partition; for many partitions, the number of records and a digest of all ranges."""
    parts = [f"{partition}:{start}-{end}" for partition, (start, end) in sorted(offsets.items()) if end > start]
    if len(parts) <= MOST_PARTITIONS_NAMED:
        return ",".join(parts)
    digest = hashlib.sha256(",".join(parts).encode()).hexdigest()[:16]
    return f"{sum(end - start for start, end in offsets.values())}-records-{digest}"


def new_data(config: SourceConfig, settings: Settings) -> NewData | None:
    """The data that a source has beyond the lake; None if there is none.

    Raises:
        GapError: rows beyond the lake's position are gone, or the source is another one; recorded in control/audit.
        LakehouseError: the source or the lake cannot be read.
    """
    lake = Lake.at(settings.lake)
    while True:
        version = _batches_version(lake)
        try:
            if isinstance(config, PostgresConfig):
                with config.named():
                    return _new_in_postgres(settings, lake, config)
            return _new_in_kafka(settings, lake, config)
        except GapError:
            if _batches_version(lake) != version:
                continue  # another process has meanwhile ingested and acknowledged what was expected here: poll again
            with Audit(lake).gaps(config.name):
                raise


def _batches_version(lake: Lake) -> int | None:
    return lake.open("control", "batches").version() if lake.exists("control", "batches") else None


def _new_in_postgres(settings: Settings, lake: Lake, config: PostgresConfig) -> NewData | None:
    """The range from the lake's position to the end of the first transaction beyond it, however much follows.

    Log of other tables counts only if it is more than IDLE_BYTES: a run lets the server recycle it.
    """
    from fraud_lakehouse.ingest.ineligible_tables import ineligible
    from fraud_lakehouse.ingest.postgres import open_capture
    from fraud_lakehouse.sources.postgres.errors import TableFailedError

    with open_capture(settings, lake, config) as capture:
        position = _position(lake, "control", "batches", capture.app_id)
        if position is None:
            return NewData(config.name, "snapshot")
        if order := Audit(lake).order(config.name, capture.app_id, position):
            return NewData(config.name, f"{order}-at-{_lsn(position)}")
        found = capture.tables()
        tables = {table.name: capture.app_id_of(table.name) for table in found}
        after = {name: _position(lake, "bronze", name, app_id) for name, app_id in tables.items()}
        failed = {name: why for name in tables if (why := ineligible(lake, name)) is not None}
        if new := sorted(name for name, at in after.items() if at is None and name not in failed):
            return NewData(config.name, f"snapshot-of-{'-'.join(new)}")
        if unpublished := sorted(tables.keys() - failed.keys() - capture.memberships(found).keys()):
            return NewData(config.name, f"resync-of-{'-'.join(unpublished)}")
        if due := sorted(name for name, why in failed.items() if why.seconds_ago > RETRY_SECONDS):
            return NewData(config.name, f"retry-of-{'-'.join(due)}-after-{failed[due[0]].tried_at}")
        end = capture.lag().current_lsn
        if end - position > IDLE_BYTES:
            return NewData(config.name, lsn_range(position, end))
        known = {name: at for name, at in after.items() if at is not None}
        left_out = {table.oid for table in found if table.name in failed or table.name not in known}
        changes = capture.changes(known, position, max_rows=1, waiting=left_out)
        try:
            pieces = sum(1 for _ in changes)
        except TableFailedError as error:  # the run continues without this table
            return NewData(config.name, f"{_lsn(position)}-without-{error.name}")
        if changes.end_lsn == position or not (pieces or changes.end_lsn < end):
            return None
        return NewData(config.name, lsn_range(position, changes.end_lsn))


def _new_in_kafka(settings: Settings, lake: Lake, config: TopicConfig) -> NewData | None:
    """The range from the lake's next offset to the end, per partition with new records; else a due heartbeat."""
    from fraud_lakehouse.ingest.idle_partitions import IdlePartitions
    from fraud_lakehouse.ingest.kafka import is_awaited
    from fraud_lakehouse.sources.kafka.capture import KafkaCapture
    from fraud_lakehouse.sources.kafka.topic import TopicMissingError
    from fraud_lakehouse.transform.project import current_windows

    with KafkaCapture(settings, config) as capture:
        try:
            app_ids = capture.partitions()
        except TopicMissingError:
            if is_awaited(lake, config):
                return None
            raise
        known = {app_id: _position(lake, "bronze", config.table, app_id) for app_id in app_ids}
        lag = capture.lag(known)
        parts = enumerate(lag.partitions.values())
        offsets = {
            number: (part.start if part.position is None else part.position, part.end)
            for number, part in parts
            if part.rows
        }
        if offsets:
            return NewData(config.topic, offset_range(offsets))
        due = IdlePartitions(lake, settings, partial(current_windows, settings), config).due(
            capture.topic, datetime.now(UTC)
        )
        return NewData(config.topic, f"idle-{due.isoformat()}") if due else None


def _position(lake: Lake, layer: str, table: str, app_id: str) -> int | None:
    return lake.open(layer, table).transaction_version(app_id) if lake.exists(layer, table) else None


def _lsn(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
