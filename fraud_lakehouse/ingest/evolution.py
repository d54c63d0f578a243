"""Schema evolution of bronze tables: follows the source's columns and detects changes of rows that the log misses.

Bronze keeps dropped columns, since older events have them; the property `fraud_lakehouse.columns` lists the source's
current ones. Resyncing the rows is in resync_run.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import polars as pl
from deltalake.exceptions import DeltaError

from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.ingest.bronze import COLUMNS_PROPERTY, KEY_PROPERTY, BronzeTable
from fraud_lakehouse.sources.postgres.catalog import EVENT_SCHEMA, TableInfo
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.fingerprint import Shape
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import COMMIT, INGESTED_AT, FrameSchema, delta_types

log = logging.getLogger(__name__)

SOURCE_PROPERTY = "fraud_lakehouse.source"
"""JSON list: schema and name of the source's table. A source table's bronze table never changes."""
OWNER_PROPERTY = "fraud_lakehouse.owner"
"""Name of the source that owns the table; tables of version 0.1 have none, and belong to its only database."""
POSITION_PROPERTY = "fraud_lakehouse.columns_lsn"
SHAPE_PROPERTY = "fraud_lakehouse.shape"
LEFT_OUT_PROPERTY = "fraud_lakehouse.left_out"
"""JSON list of the source's generated columns that the log, and so bronze, does not have."""
MEMBER_PROPERTY = "fraud_lakehouse.publication"
"""The publication epoch since which the log has all changes of the table."""
INELIGIBLE_PROPERTY = "fraud_lakehouse.ineligible"
"""JSON object {problem, fix, tried_at}: why changes of the table are skipped; empty after a resync."""

NEVER = datetime.fromtimestamp(0, UTC).isoformat()
"""`tried_at` of a table that is ineligible by the catalog: it is due at once when it becomes eligible."""


@dataclass(frozen=True)
class Ineligible:
    """Why changes of a table are skipped, the fix, and the last attempt (UTC, ISO 8601)."""

    problem: str
    fix: str
    tried_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def seconds_ago(self) -> float:
        """Seconds since the last attempt."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.tried_at)).total_seconds()

    @staticmethod
    def of(properties: Mapping[str, str | None]) -> Ineligible | None:
        """From a bronze table's properties; None while the table is captured."""
        text = properties.get(INELIGIBLE_PROPERTY)
        return Ineligible(**json.loads(text)) if text else None

    def record(self, table: BronzeTable) -> None:
        """Record it durably: the log may then advance without the table, which is resynced later.

        Raises:
            ConcurrentWriterError, LakeError: it could not be recorded; the log must not advance.
        """
        table.set_properties({INELIGIBLE_PROPERTY: json.dumps(asdict(self), ensure_ascii=False)})


def evolve(table: BronzeTable, info: TableInfo) -> bool:
    """Evolve the bronze table's schema to the source's columns, and record them.

    From the catalog: columns are added, and rewritten if their type changed. From the log, which may describe the past:
    columns are added if the description is newer than the catalog's; types stay.

    Returns:
        whether anything changed.

    Raises:
        ConcurrentWriterError: another writer committed meanwhile; the next check retries.
        LakeError: the lake could not be written.
    """
    properties = table.properties
    known = properties.get(COLUMNS_PROPERTY)
    is_catalog = bool(info.shape)
    if not is_catalog and (known is None or info.lsn <= int(properties.get(POSITION_PROPERTY) or 0)):
        return False
    wanted = {table.spelling(column.name): column.type.dtype for column in info.columns}
    first_rows_fit = known is None and _source_columns(table) == wanted
    is_reshaped = table.reshape(wanted, rewrite=is_catalog)
    described = _described(info, wanted, table.schema, [table.spelling(name) for name in info.key])
    if first_rows_fit:
        described[SHAPE_PROPERTY] = info.shape
    left_out = json.dumps(info.left_out, ensure_ascii=False)
    if is_catalog and properties.get(LEFT_OUT_PROPERTY, "[]") != left_out:
        described[LEFT_OUT_PROPERTY] = left_out
        log.warning("generated columns of %s that the log does not carry: %s", info.source_name, left_out)
    if all(properties.get(name) == value for name, value in described.items()):
        return is_reshaped
    table.set_properties(described | {POSITION_PROPERTY: str(info.lsn)})
    return True


def first_properties(info: TableInfo, member: str | None, owner: str) -> dict[str, str]:
    """Properties that a bronze table is created with, so that its first rows need no commits for them.

    Whether it has rows is decided by its position, which is committed with them.

    Args:
        info: the catalog's description.
        member: the table's publication epoch, if known.
        owner: the source's name.
    """
    columns = {column.name: column.type.dtype for column in info.columns}
    described = _described(info, columns, columns, info.key)
    described |= {SHAPE_PROPERTY: info.shape, POSITION_PROPERTY: str(info.lsn), OWNER_PROPERTY: owner}
    return described | ({} if member is None else {MEMBER_PROPERTY: member})


def _described(info: TableInfo, names: Iterable[str], schema: FrameSchema, key: Sequence[str]) -> dict[str, str]:
    types = delta_types(schema)
    return {
        COLUMNS_PROPERTY: json.dumps([{"name": name, "type": types[name]} for name in names], ensure_ascii=False),
        KEY_PROPERTY: json.dumps(list(key)),
        SOURCE_PROPERTY: json.dumps([info.schema, info.table], ensure_ascii=False),
    }


def recorded_names(
    lake: Lake, config: PostgresConfig, among: Iterable[str] | None = None
) -> dict[tuple[str, str], str]:
    """A source's bronze tables by schema and name of the source's table.

    Args:
        among: names to read; default: all (local lakes only).
    """
    found = {}
    for name in lake.tables("bronze") if among is None else among:
        properties = _properties(lake, name)
        if SOURCE_PROPERTY in properties and _owner(properties, config) is None:
            schema, table = json.loads(properties[SOURCE_PROPERTY])
            found[schema, table] = name
    return found


def other_owner(lake: Lake, config: PostgresConfig, name: str) -> str | None:
    """The other source that owns a bronze table, or None."""
    return _owner(_properties(lake, name), config)


def _owner(properties: Mapping[str, str], config: PostgresConfig) -> str | None:
    named = properties.get(OWNER_PROPERTY)
    if named is None:
        is_ours = config.is_shorthand or SOURCE_PROPERTY not in properties
        return None if is_ours else "of FRAUD_POSTGRES_DSN"
    return None if named == config.name else named


def _properties(lake: Lake, name: str) -> Mapping[str, str]:
    with suppress(LakeError, DeltaError):  # unfinished, or torn by a power loss: the next write repairs it
        return lake.open("bronze", name).metadata().configuration
    return {}


def resync_reason(table: BronzeTable, info: TableInfo, member: str | None) -> str | None:
    """Why a table needs a resync (its rows may have changed without the log), or None.

    Records a changed fingerprint that affects no rows (a truncate, VACUUM FULL, an empty partition).

    Args:
        info: the catalog's description.
        member: the table's publication epoch; None if it is no longer published.

    Raises:
        ConcurrentWriterError, LakeError: it could not be recorded.
    """
    if (ineligible := Ineligible.of(table.properties)) is not None:
        return f"its changes were skipped: {ineligible.problem}"
    before = table.properties.get(SHAPE_PROPERTY)
    if before is None:
        return "its columns changed while it was not captured"
    reason = Shape.read(info.shape).silent_change(Shape.read(before)) or _unpublished(table, member)
    if reason is None:
        settle(table, info, member)
    return reason


def settle(table: BronzeTable, info: TableInfo, member: str | None) -> None:
    """Mark the table synced: after a snapshot or resync that began after `info` was read.

    Raises:
        ConcurrentWriterError, LakeError: it could not be recorded; the table is resynced once more.
    """
    values = {SHAPE_PROPERTY: info.shape, MEMBER_PROPERTY: member or ""}
    if Ineligible.of(table.properties) is not None:
        values[INELIGIBLE_PROPERTY] = ""
    table.set_properties(values)


def _unpublished(table: BronzeTable, member: str | None) -> str | None:
    if member is None:
        return "it is no longer in the publication"
    known = table.properties.get(MEMBER_PROPERTY)  # older lakes have none
    is_same = known in (None, member) or member.startswith(f"{known}/")  # older lakes have a shorter epoch
    return None if is_same else "it was removed from the publication, or the publication was altered"


def _source_columns(table: BronzeTable) -> dict[str, pl.DataType]:
    return {name: kind for name, kind in table.schema.items() if name not in (*EVENT_SCHEMA, INGESTED_AT, COMMIT)}
