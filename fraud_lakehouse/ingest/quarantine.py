"""Kafka records that could not be read: counted, listed, exported, and read again once the cause is mended.

A record in quarantine is a row of its topic's bronze table with its bytes in `_raw`; it stays there for ever. Replayed,
it is appended as a good row of the same topic, partition and offset whose `_quarantined_at` is the bad row's
`_ingested_at`: that pair is what says "done". The rows of a replay and its turn (app_id `quarantine:replay`) are one
commit, and the turn is read before the rows: a rival's replay, or a second one of a killed one, doubles nothing.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.errors import ConcurrentWriterError, InputFileError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.topic_table import evolve, open_topic_table
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.records import RECORD_COLUMNS, RawRecords, RecordDecoder
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake, data_files
from fraud_lakehouse.storage.schemas import INGESTED_AT, frame_schema

APP_ID = "quarantine:replay"
SOURCE = "quarantine"
_DONE = "_quarantined_at"
_PLACE = ["_topic", "_partition", "_offset"]
_KEPT = ["_timestamp", "_key", "_headers"]
_ATTEMPTS = 20
_SHOWN = 60  # bytes of a value that a listing shows

Place = tuple[str, int, int, datetime]
"""Topic, partition, offset, and when the bad row was landed: one record in quarantine."""


class CorrectionError(InputFileError):
    """A file of corrected records cannot be read."""


@dataclass(frozen=True)
class Selection:
    """Which records in quarantine; what is None does not matter. `reason` is a part of the error's text."""

    reason: str | None = None
    partition: int | None = None
    offset: int | None = None

    def condition(self) -> pl.Expr:
        """The rows of a bronze table that are meant, replayed ones included."""
        found = pl.col("_raw").is_not_null() & pl.col("_error").is_not_null()
        if self.reason is not None:
            found &= pl.col("_error").str.contains(self.reason, literal=True)
        for name, wanted in (("_partition", self.partition), ("_offset", self.offset)):
            if wanted is not None:
                found &= pl.col(name) == wanted
        return found


@dataclass
class Replayed:
    """What a replay did: rows appended as good ones, and how many records still cannot be read, by reason."""

    rows: int = 0
    refused: dict[str, int] = field(default_factory=dict)


def open_count(handle: DeltaTable) -> int:
    """How many records wait in quarantine, from the Delta log alone; tombstones do not count."""
    return _present(handle, "_raw") - _present(handle, _DONE)


class Quarantine:
    """The records of one topic that could not be read.

    Args:
        topic: which one, and how its records are read now.
    """

    def __init__(self, lake: Lake, topic: TopicConfig) -> None:
        self.lake = lake
        self.topic = topic
        self._table = ("bronze", topic.table)

    def records(self, selection: Selection, limit: int | None = None) -> list[dict[str, Any]]:
        """Records waiting in quarantine, newest first.

        Returns:
            for each: topic, partition, offset, timestamp (the record's) and quarantined_at (datetime UTC), error,
            bytes (length) and start (the first bytes, as text).
        """
        rows = pl.concat([self._empty(), *(frame for frame in self._open(selection, shown=True))])
        newest = rows.sort(INGESTED_AT, *_PLACE, descending=[True, False, False, False])
        return [
            {
                "topic": row["_topic"],
                "partition": row["_partition"],
                "offset": row["_offset"],
                "timestamp": row["_timestamp"],
                "quarantined_at": row[INGESTED_AT],
                "error": row["_error"],
                "bytes": row["_bytes"],
                "start": row["_raw"].decode(errors="backslashreplace"),
            }
            for row in newest.head(limit if limit is not None else newest.height).iter_rows(named=True)
        ]

    def export(self, selection: Selection, path: Path) -> int:
        """Write the records as JSON lines for correction: `value` is text, or `value_base64` where it is no UTF-8.

        Returns:
            how many were written.
        """
        count = 0
        with path.open("w", encoding="utf-8") as file:
            for frame in self._open(selection):
                for row in frame.iter_rows(named=True):
                    file.write(json.dumps(_exported(row), ensure_ascii=False) + "\n")
                    count += 1
        return count

    def replay(self, selection: Selection, corrected: Mapping[Place, bytes] | None = None) -> Replayed:
        """Read records in quarantine again and append those that are good now, each once.

        Args:
            selection: which ones.
            corrected: values to read instead of those that came; given, only these records are meant.

        Raises:
            FieldTypeError: the type of a field changed, and its column cannot follow.
            ConcurrentWriterError: another replay was first; nothing was doubled, run it again.
            LakeError: the lake could not be written; what was appended before is in place, run it again.
        """
        result = Replayed()
        if not self.lake.exists(*self._table):
            return result
        bronze, decoder = open_topic_table(self.lake, self.topic), RecordDecoder(self.topic)
        evolve(self.lake, bronze, self.topic)
        lock = bronze.position(APP_ID) or 0  # before the rows are looked at: a later replay is refused by it
        for frame in self._open(selection):
            good = _read_again(frame, corrected, decoder, result)
            failpoint("quarantine.before_append")
            if good.height:
                lock += 1
                _append(bronze, good, lock)
                result.rows += good.height
        if result.rows:
            detail = {"table": self.topic.table, "rows": result.rows, "corrected": corrected is not None}
            Audit(self.lake).record(SOURCE, "replayed", detail)
        return result

    def _open(self, selection: Selection, *, shown: bool = False) -> Iterator[pl.DataFrame]:
        """Rows waiting in quarantine, data file by data file; `shown`: the start of their bytes, and how many."""
        if not self.lake.exists(*self._table):
            return
        handle = self.lake.open(*self._table)
        done = [_scan(handle, path, pl.col(_DONE).is_not_null()) for path in _files_with(handle, _DONE)]
        places = [*_PLACE, INGESTED_AT]
        replayed = (
            pl.concat([frame.select(*_PLACE, pl.col(_DONE).alias(INGESTED_AT)) for frame in done]) if done else None
        )
        for path in _files_with(handle, "_raw"):
            frame = _scan(handle, path, selection.condition()).select(*places, "_error", "_raw", *_KEPT)
            if replayed is not None:
                frame = frame.join(replayed, on=places, how="anti")
            if shown:
                frame = frame.with_columns(_bytes=pl.col("_raw").bin.size(), _raw=pl.col("_raw").bin.head(_SHOWN))
            rows = frame.collect()
            if rows.height:
                yield rows

    @staticmethod
    def _empty() -> pl.DataFrame:
        kept = {name: RECORD_COLUMNS[name] for name in (*_PLACE, "_error", "_raw", *_KEPT)}
        order = [*_PLACE, INGESTED_AT, "_error", "_raw", *_KEPT, "_bytes"]
        kinds = kept | {INGESTED_AT: RECORD_COLUMNS[_DONE], "_bytes": pl.UInt32()}
        return pl.DataFrame(schema={name: kinds[name] for name in order})


def read_corrections(path: Path) -> dict[Place, bytes]:
    """The records of a file as `Quarantine.export` writes it, their values corrected by hand.

    Raises:
        CorrectionError: the file, or a line of it, cannot be read; says which.
    """
    found: dict[Place, bytes] = {}
    fix = "write it with `fraud-lakehouse quarantine export`, and change only `value`"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorrectionError(f"corrected records: cannot read {path}: {error}", fix) from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            at = datetime.fromisoformat(row["quarantined_at"]).astimezone(UTC)
            value = row["value"].encode() if row.get("value") is not None else b64decode(row["value_base64"])
            found[str(row["topic"]), int(row["partition"]), int(row["offset"]), at] = value
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = (
                f"{path}, line {number}: expected a JSON object with topic, partition, offset, quarantined_at, value"
            )
            raise CorrectionError(f"{problem} ({type(error).__name__}: {error})", fix) from None
    return found


def _append(bronze: BronzeTable, good: pl.DataFrame, lock: int) -> None:
    """Commit the rows with the replay's turn; capture, which commits to the table too, may be first a few times."""
    for attempt in range(_ATTEMPTS):
        try:
            bronze.append(good, {APP_ID: lock})
            return
        except ConcurrentWriterError:  # the handle is at the rival's commit now
            if attempt == _ATTEMPTS - 1 or (bronze.position(APP_ID) or 0) >= lock:
                raise


def _exported(row: Mapping[str, Any]) -> dict[str, Any]:
    place = {"topic": row["_topic"], "partition": row["_partition"], "offset": row["_offset"]}
    found = place | {"quarantined_at": row[INGESTED_AT].isoformat(), "error": row["_error"]}
    try:
        return found | {"value": row["_raw"].decode()}
    except UnicodeDecodeError:
        return found | {"value_base64": b64encode(row["_raw"]).decode()}


def _read_again(
    rows: pl.DataFrame, corrected: Mapping[Place, bytes] | None, decoder: RecordDecoder, result: Replayed
) -> pl.DataFrame:
    """The rows that can be read now, as bronze takes them; the others are counted in `result.refused`."""
    if corrected is not None:
        places = list(rows.select(*_PLACE, INGESTED_AT).iter_rows())
        rows = rows.with_columns(pl.Series("_raw", [corrected.get(place) for place in places], pl.Binary))
        rows = rows.filter(pl.col("_raw").is_not_null())
    frames = [pl.DataFrame(schema=decoder.schema)]
    for (topic,), part in rows.group_by("_topic", maintain_order=True):
        partitions, offsets, values = (part[name].to_list() for name in ("_partition", "_offset", "_raw"))
        records = RawRecords(str(topic), partitions, offsets, [None] * part.height, values)
        kept = part.select(*_KEPT, pl.col(INGESTED_AT).alias(_DONE))
        frames.append(decoder.decode(records).with_columns(kept.get_columns()))
    read = pl.concat(frames)
    for reason, count in read["_error"].drop_nulls().value_counts().iter_rows():
        result.refused[reason] = result.refused.get(reason, 0) + count
    return read.filter(pl.col("_error").is_null())


def _scan(handle: DeltaTable, path: str, condition: pl.Expr) -> pl.LazyFrame:
    schema = frame_schema(handle.schema())
    kinds = schema | {
        name: kind for name, kind in RECORD_COLUMNS.items() if name not in schema
    }  # before its first new row
    scanned = pl.scan_parquet(
        path, schema=kinds, glob=False, hive_partitioning=False, missing_columns="insert", extra_columns="ignore"
    )
    return scanned.filter(condition)


def _nulls(handle: DeltaTable, column: str) -> pl.DataFrame:
    """By data file: `path`, and `there`, how many of its rows have a value in the column."""
    actions = pl.DataFrame(handle.get_add_actions(flatten=True))
    name = f"null_count.{column}"
    if actions.is_empty() or name not in actions.columns:
        return pl.DataFrame(schema={"path": pl.String, "there": pl.Int64})
    nulls = pl.col(name).fill_null(pl.col("num_records"))  # a file from before the column was there
    return actions.select("path", there=pl.col("num_records") - nulls)


def _present(handle: DeltaTable, column: str) -> int:
    return int(_nulls(handle, column)["there"].sum())


def _files_with(handle: DeltaTable, column: str) -> list[str]:
    found = _nulls(handle, column)
    names = {path.rpartition("/")[2] for path in found.filter(pl.col("there") > 0)["path"]}
    return [uri for uri in data_files(handle) if uri.rpartition("/")[2] in names]
