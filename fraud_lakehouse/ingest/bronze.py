"""A bronze table: a source's change events, appended with the position they came from in the same Delta commit.

The guarantee: the table has exactly the rows up to `position(app_id)`, each once. Rows and position are one commit; the
caller acknowledges the source afterwards. Reading the source is in postgres.py, the slot's position in batches.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl

from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import INGESTED_AT, UTC_MICROSECONDS, FrameSchema, with_ingestion

KEY_PROPERTY = "fraud_lakehouse.key"
COLUMNS_PROPERTY = "fraud_lakehouse.columns"
"""JSON list of `{"name": ..., "type": <Delta type>}`: the source's current columns, in order."""


class BronzeTable:
    """One bronze table, kept open. Frames come without `_ingested_at`, which is added here (UTC).

    Rows also get `_commit` (appender.py), which orders Kafka records of several partitions. Change events are ordered
    by LSN.
    """

    def __init__(self, appender: Appender) -> None:
        self._appender = appender
        self.name = appender.name

    @staticmethod
    def open_or_create(
        lake: Lake,
        name: str,
        frame_schema: FrameSchema,
        key: Sequence[str],
        properties: Mapping[str, str] | None = None,
    ) -> BronzeTable:
        """Open `bronze/<name>`, or create it with these columns and `fraud_lakehouse.key` = JSON list of `key`.

        Args:
            properties: further table properties to create it with.

        Raises:
            LakeError: the lake cannot be read or written.
        """
        schema = with_ingestion(frame_schema)
        configuration = {KEY_PROPERTY: json.dumps(list(key)), **(properties or {})}
        return BronzeTable(Appender.open(lake, "bronze", name, schema, configuration))

    @property
    def version(self) -> int:
        """The Delta version that is loaded."""
        return self._appender.version

    def position(self, app_id: str) -> int | None:
        """The position committed with the newest rows of an app_id, or None."""
        return self._appender.position(app_id)

    @property
    def newest_commit(self) -> int:
        """The newest `_commit`; 0 if there is none."""
        return self._appender.newest_commit

    def refresh(self) -> None:
        """Load the commits of other writers."""
        self._appender.refresh()

    def append(self, frame: pl.DataFrame, positions: Mapping[str, int]) -> int:
        """Commit rows and positions together, durably.

        Args:
            frame: change events without `_ingested_at`; may have more or fewer source columns than the table has.
            positions: app_id -> position (end LSN, or next offset to read).

        Returns:
            the Delta version that contains them.

        Raises:
            ConcurrentWriterError: another writer moved one of the positions; nothing was written.
            LakeError: the lake could not be written; the caller must not acknowledge.
        """
        return self._appender.append(self._stamped(frame), positions)

    def stage(self, frame: pl.DataFrame) -> None:
        """Write rows for the next `commit`, durably but invisible to readers; frames as in `append`.

        Raises:
            ConcurrentWriterError: a column is missing, and another writer committed meanwhile.
            LakeError: the rows could not be written.
        """
        self._appender.stage(self._stamped(frame))

    def commit(self, positions: Mapping[str, int]) -> int:
        """Commit all staged rows and their positions in one commit, durably.

        Returns:
            the Delta version that contains them.

        Raises:
            ConcurrentWriterError: another writer moved one of the positions; nothing was committed.
            LakeError: the lake could not be written; the caller must not acknowledge.
        """
        return self._appender.commit(positions)

    def discard(self) -> None:
        """Discard the rows staged since the last commit."""
        self._appender.discard()

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """The table's columns, including those that the source has dropped."""
        return self._appender.schema

    @property
    def properties(self) -> dict[str, str]:
        """The table's properties."""
        return self._appender.properties

    def set_properties(self, values: Mapping[str, str]) -> None:
        """Set the properties that differ.

        Raises:
            ConcurrentWriterError: another writer committed meanwhile; nothing changed.
        """
        self._appender.set_properties(values)

    def set_key(self, key: Sequence[str]) -> None:
        """Record the source's key columns, if they changed."""
        self.set_properties({KEY_PROPERTY: json.dumps([self.spelling(name) for name in key])})

    def spelling(self, column: str) -> str:
        """The table's spelling of a column name, which stays if the source changes only the case."""
        return _spelling(self._appender.schema, column)

    def reshape(self, columns: FrameSchema, *, rewrite: bool) -> bool:
        """Add missing columns; with `rewrite`, also change the types of columns that differ.

        Returns:
            whether the table was changed.

        Raises:
            ConcurrentWriterError: another writer committed meanwhile; nothing changed.
        """
        return self._appender.reshape(columns, rewrite=rewrite)

    def rebuild(self, frame_schema: FrameSchema, key: Sequence[str]) -> None:
        """Empty the table before a snapshot. An empty table with the right columns is not changed."""
        schema = with_ingestion(frame_schema)
        if self._appender.version > 0 or self._appender.schema != schema:
            self._appender.replace(schema)
        self.set_key(key)

    def _stamped(self, frame: pl.DataFrame) -> pl.DataFrame:
        own = self._appender.schema
        spelt = {name: _spelling(own, name) for name in frame.columns if name not in own}
        now = datetime.now(UTC)
        return frame.rename(spelt).with_columns(pl.lit(now, dtype=UTC_MICROSECONDS).alias(INGESTED_AT))


def _spelling(schema: FrameSchema, column: str) -> str:
    if column in schema:
        return column
    return next((name for name in schema if name.lower() == column.lower()), column)
