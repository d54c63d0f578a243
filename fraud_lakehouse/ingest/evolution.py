"""The columns of a bronze table while those of its source change: what is there now, and whether rows are missing it.

Bronze keeps dropped columns, since older events have them; the property `fraud_lakehouse.columns` says which ones the
source has. Taking the table's rows anew, where the log could not tell how they changed, is not here (resync.py).
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
"""JSON list: schema and name of the source's table. Which bronze table it has stays so, whatever tables come and go."""
OWNER_PROPERTY = "fraud_lakehouse.owner"
"""Name of the source that a table was created for; tables of version 0.1 have none, and are those of its database."""
POSITION_PROPERTY = "fraud_lakehouse.columns_lsn"
SHAPE_PROPERTY = "fraud_lakehouse.shape"
LEFT_OUT_PROPERTY = "fraud_lakehouse.left_out"
"""JSON list of the source's generated columns that the log does not carry and bronze does not have."""
MEMBER_PROPERTY = "fraud_lakehouse.publication"
"""The table's membership in the publication since when the log has told all of its changes."""
INELIGIBLE_PROPERTY = "fraud_lakehouse.ineligible"
"""JSON object {problem, fix, tried_at}: why changes of the table are left out; empty once a resync made them good."""

NEVER = datetime.fromtimestamp(0, UTC).isoformat()
"""When a table was tried that the catalog rules out: once it does not any more, the table is due at once."""


@dataclass(frozen=True)
class Ineligible:
    """Why changes of a table are left out, what helps, and when it was tried last (UTC, ISO 8601)."""

    problem: str
    fix: str
    tried_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def seconds_ago(self) -> float:
        """How long ago it was tried last."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.tried_at)).total_seconds()

    @staticmethod
    def of(properties: Mapping[str, str | None]) -> Ineligible | None:
        """What a bronze table's properties say; None while the table is captured."""
        text = properties.get(INELIGIBLE_PROPERTY)
        return Ineligible(**json.loads(text)) if text else None

    def record(self, table: BronzeTable) -> None:
        """Record it durably: from now on the log may go on without the table, which is resynced later.

        Raises:
            ConcurrentWriterError, LakeError: it could not be recorded; the log must not go on.
        """
        table.set_properties({INELIGIBLE_PROPERTY: json.dumps(asdict(self), ensure_ascii=False)})


def adapt(table: BronzeTable, info: TableInfo) -> bool:
    """Give the bronze table the columns that the source has, and record which these are.

    From the catalog: columns are added, and rewritten where they have another type. From the log, which may be
    describing the past: columns are added if the description is newer than the catalog's; types stay.

    Returns:
        whether anything changed.

    Raises:
        ConcurrentWriterError: another writer committed meanwhile; the next look does it.
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

    Its position, which comes with the rows, decides whether it has them.

    Args:
        info: the catalog's description.
        member: the table's membership in the publication, where it is known already.
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
        among: names that are looked at; default: all there are (local lakes only).
    """
    found = {}
    for name in lake.tables("bronze") if among is None else among:
        properties = _properties(lake, name)
        if SOURCE_PROPERTY in properties and _owner(properties, config) is None:
            schema, table = json.loads(properties[SOURCE_PROPERTY])
            found[schema, table] = name
    return found


def other_owner(lake: Lake, config: PostgresConfig, name: str) -> str | None:
    """The source that a bronze table belongs to, if it is not this one."""
    return _owner(_properties(lake, name), config)


def _owner(properties: Mapping[str, str], config: PostgresConfig) -> str | None:
    named = properties.get(OWNER_PROPERTY)
    if named is None:
        is_ours = config.is_shorthand or SOURCE_PROPERTY not in properties
        return None if is_ours else "of FRAUD_POSTGRES_DSN"
    return None if named == config.name else named


def _properties(lake: Lake, name: str) -> Mapping[str, str]:
    with suppress(LakeError, DeltaError):  # begun, or torn by a power loss: it is mended when it is written
        return lake.open("bronze", name).metadata().configuration
    return {}


def resync_reason(table: BronzeTable, info: TableInfo, member: str | None) -> str | None:
    """Why the rows of a table may be others than the log has said, or None.

    What has changed without touching any row (a truncate, VACUUM FULL, an empty partition) is recorded here.

    Args:
        info: the catalog's description.
        member: the table's membership in the publication; None if it is in it no more.

    Raises:
        ConcurrentWriterError, LakeError: it could not be recorded.
    """
    if (ineligible := Ineligible.of(table.properties)) is not None:
        return f"its changes were left out: {ineligible.problem}"
    before = table.properties.get(SHAPE_PROPERTY)
    if before is None:
        return "its columns changed while it was not captured"
    reason = Shape.read(info.shape).silent_change(Shape.read(before)) or _unpublished(table, member)
    if reason is None:
        settle(table, info, member)
    return reason


def settle(table: BronzeTable, info: TableInfo, member: str | None) -> None:
    """Record that the rows are those of the source: after a snapshot or resync that began after `info` was read.

    Raises:
        ConcurrentWriterError, LakeError: it could not be recorded; the table is resynced once more.
    """
    values = {SHAPE_PROPERTY: info.shape, MEMBER_PROPERTY: member or ""}
    if Ineligible.of(table.properties) is not None:
        values[INELIGIBLE_PROPERTY] = ""
    table.set_properties(values)


def _unpublished(table: BronzeTable, member: str | None) -> str | None:
    if member is None:
        return "the publication has it no more"
    known = table.properties.get(MEMBER_PROPERTY)  # a table of an older lake has none
    is_same = known in (None, member) or member.startswith(f"{known}/")  # an older lake knows less of the publication
    return None if is_same else "it was out of the publication, or the publication was altered"


def _source_columns(table: BronzeTable) -> dict[str, pl.DataType]:
    return {name: kind for name, kind in table.schema.items() if name not in (*EVENT_SCHEMA, INGESTED_AT, COMMIT)}
