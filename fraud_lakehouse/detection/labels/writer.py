"""Appends labels of streams and declared tables to `silver/labels` as their rows come.

Order and guarantee: the labels and the number of the last bronze commit they were read from are one Delta commit. A
writer killed at any point reads the same rows again; labels that the table has are not appended twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import duckdb
import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from fraud_lakehouse.detection.labels.inputs import LabelInput
from fraud_lakehouse.detection.labels.table import LabelTable
from fraud_lakehouse.errors import ConcurrentWriterError, LakehouseError
from fraud_lakehouse.pipeline import Pipeline
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import declared
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.commit_numbers import NOTHING, newest, rows_since, steps
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import UTC_MICROSECONDS
from fraud_lakehouse.transform.table_cache import TableCache

log = logging.getLogger(__name__)

MOST_ROWS = 500_000  # read at once: memory
_SHOWN = 3  # examples of rejected rows in a message


class LabelWriter:
    """The labels of one lake's streams and tables; not thread-safe.

    `problems` has, by input, why its labels are not written now. One input's problem stops no other.

    Raises:
        PipelineError: the pipeline folder has mistakes. SettingsError: there is none.
    """

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self._settings = settings
        self._lake = lake
        self._tables = TableCache(lake)
        self._labels = LabelTable(lake)
        self._read: dict[str, tuple[str, int]] = {}  # by input: id of its table, and the commit read last
        self.problems: dict[str, str] = {}
        self.reload()

    def reload(self) -> None:
        """Read the pipeline folder again.

        Raises:
            PipelineError, SettingsError: as the constructor.
        """
        pipeline = declared(self._settings)
        self._streams = sorted(pipeline.streams)
        self._inputs = label_inputs(pipeline, self._settings)

    def write_declared(self) -> int:
        """Append new labels of the tables of labels.yml; returns their number."""
        return sum(self._write(one) for one in self._inputs if not one.is_stream)

    def write_of_streams(self) -> int:
        """Append new labels of the streams' own label columns; returns their number."""
        return sum(self._write(one) for one in self._inputs if one.is_stream)

    def write(self) -> int:
        """Append new labels of every input; returns their number."""
        return self.write_declared() + self.write_of_streams()

    def _write(self, one: LabelInput) -> int:
        try:
            written = self._append(one)
        except ConcurrentWriterError:
            return 0  # the next cycle reads the same rows again
        except (LakehouseError, DeltaError, duckdb.Error, pl.exceptions.PolarsError, OSError) as error:
            problem = str(error)
            if self.problems.get(one.name) != problem:
                log.error("labels of %s: %s", one.name, problem)  # noqa: TRY400  shown with its remedy
            self.problems[one.name] = problem
            return 0
        self.problems.pop(one.name, None)
        return written

    def _append(self, one: LabelInput) -> int:
        table = self._tables.get(("bronze", one.table))
        if table is None:
            return 0
        table_id, last = str(table.metadata().id), newest(table)
        if self._read.get(one.name) == (table_id, last):
            return 0
        app_id = f"labels:{one.name}:{table_id}"
        position = self._labels.position(app_id)
        written = 0
        after = NOTHING if position is None else position
        for until in steps(table, after, last, MOST_ROWS) if after < last else ():
            written += self._labels.add(self._new_labels(one, table, after, until), {app_id: until})
            after = until
        self._read[one.name] = table_id, last
        return written

    def _new_labels(self, one: LabelInput, table: DeltaTable, after: int, until: int) -> pl.DataFrame:
        rows = rows_since(table, after, until).scan(table)
        kinds = rows.collect_schema()
        frame = rows.select(one.columns(dict.fromkeys(kinds, ""))).collect()
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            connection.register("label_rows", frame.to_arrow())
            described = connection.execute("describe label_rows").fetchall()
            types = {str(name): str(kind) for name, kind, *_ in described}
            sql = one.query("label_rows", types, self._streams)
            found = pl.DataFrame(connection.sql(sql).to_arrow_table())
        found = found.with_columns(
            pl.col("known_at", "recorded").cast(UTC_MICROSECONDS), pl.lit(one.name).alias("input")
        )
        self._reject(one, found.filter(pl.col("problem").is_not_null()))
        return found.filter(pl.col("problem").is_null())

    def _reject(self, one: LabelInput, rows: pl.DataFrame) -> None:
        """Record rows that have no usable label in control/audit; they are still in bronze."""
        if rows.is_empty():
            return
        examples = [f"{row['transaction_id']}: {row['problem']}" for row in rows.head(_SHOWN).iter_rows(named=True)]
        log.warning("labels of %s: %s rows have no usable label (%s)", one.name, rows.height, "; ".join(examples))
        detail = {"table": one.table, "rows": rows.height, "examples": examples}
        Audit(self._lake).record(f"labels:{one.name}", "labels_rejected", detail)


def label_inputs(pipeline: Pipeline, settings: Settings) -> Sequence[LabelInput]:
    """The inputs that a pipeline declares: its streams with a label column, and its tables of labels."""
    return [*_streams(pipeline, settings), *(LabelInput(name, one.from_, one) for name, one in pipeline.labels.items())]


def _streams(pipeline: Pipeline, settings: Settings) -> Iterator[LabelInput]:
    for name, stream in pipeline.streams.items():
        if stream.label is not None:
            delay = settings.label_delay if stream.label_delay is None else int(stream.label_delay)
            yield LabelInput(f"stream {name}", stream.from_, stream, delay)
