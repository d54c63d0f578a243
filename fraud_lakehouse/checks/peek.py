"""A look at records: those of a topic, or rows of a table of the lake. Moves nothing and writes nothing.

A topic is read from the broker, decoded as capture decodes it: no group is joined, and no offset is committed. Of a
PostgreSQL source the bronze table is read, never the server. A frame has the columns that `where` can use, and besides:
`_position`, partition/offset of a record or the number of a row's commit, and `_time`, the record's timestamp or when
the row was committed, ingested, fired or scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import duckdb
import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import DeclaredSource, declared_sources
from fraud_lakehouse.sources.kafka.capture import KafkaCapture
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.storage.commit_numbers import NOTHING, commits_of, is_numbered, rows_since
from fraud_lakehouse.storage.lake import LAYERS, Lake, scan
from fraud_lakehouse.storage.schemas import COMMIT

POSITION, TIME = "_position", "_time"
MOST_SEARCHED = 10_000
"""The newest records of a topic among which `where` looks."""
_TIMES = ("_timestamp", "_committed_at", "_ingested_at", "fired_at", "judged_at", "scored_at", "known_at")
_POLL_SECONDS = 1.0


def peek(
    settings: Settings,
    name: str,
    *,
    topic: str | None = None,
    rows: int = 10,
    where: str | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[pl.DataFrame]:
    """The newest records that a source or table has, oldest first; then, with `stop`, those that come.

    Args:
        name: a source, else a table of the lake, with or without its layer.
        topic: of a source with several topics or tables, which: its topic or bronze table.
        rows: how many of what is there.
        where: a condition in SQL (DuckDB).
        stop: ends the wait for further records; None: there is none.

    Raises:
        SettingsError: there is no such source or table, it does not say which of several, or `where` is wrong.
        SourceError: the broker does not answer. LakeError: the table cannot be read.
    """
    found = _place(settings, name, topic)
    if isinstance(found, TopicConfig):
        yield from _of_topic(settings, found, rows, where, stop)
    else:
        yield from _of_table(Lake.at(settings.lake), found, rows, where, stop)


def _place(settings: Settings, name: str, topic: str | None) -> TopicConfig | tuple[str, str]:
    """The topic or table that is meant."""
    declared = declared_sources(settings)
    lake = Lake.at(settings.lake)
    sources = [one for one in declared if name in (one.name, one.name.partition(".")[0])]
    if not sources:
        return _table(lake, name, declared)
    if sources[0].kind == "postgres":
        return _table_of_database(lake, sources[0], topic)
    configs = [one.config for one in sources if isinstance(one.config, TopicConfig)]
    if not configs:
        raise SettingsError(f"{sources[0].variable} is not set, so there is no source {name}", "set it (.env.example)")
    chosen = [one for one in configs if topic in (None, one.topic, one.table)]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(one.topic for one in configs)
    problem = f"{name} has no topic {topic}" if topic else f"{name} has several topics"
    raise SettingsError(problem, f"name one with --topic: {names}")


def _table_of_database(lake: Lake, source: DeclaredSource, table: str | None) -> tuple[str, str]:
    here = [one for one in source.tables if lake.exists("bronze", one)]
    if table is not None and lake.exists("bronze", table):
        return "bronze", table
    if table is None and len(here) == 1:
        return "bronze", here[0]
    problem = f"bronze has no table {table}" if table else f"{source.name} has several tables, or none yet"
    raise SettingsError(problem, f"name one with --topic: {', '.join(here) or 'none is captured yet'}")


def _table(lake: Lake, name: str, declared: list[DeclaredSource]) -> tuple[str, str]:
    layer, _, table = name.rpartition("/")
    found = [(one, table) for one in LAYERS if layer in ("", one) and lake.exists(one, table)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingsError(
            f"there are several tables {name}", f"name one of {', '.join('/'.join(one) for one in found)}"
        )
    sources = ", ".join(one.name for one in declared)
    raise SettingsError(
        f"there is no source and no table {name}",
        f"name a source ({sources}), or a table such as gold/alerts (`fraud-lakehouse status` lists them)",
    )


def _of_topic(
    settings: Settings, topic: TopicConfig, rows: int, where: str | None, stop: Callable[[], bool] | None
) -> Iterator[pl.DataFrame]:
    with closing(KafkaCapture(settings, topic)) as capture:
        wanted = rows if where is None else max(rows, MOST_SEARCHED)
        ends = capture.lag({}).partitions
        positions: dict[str, int | None] = {app_id: max(part.start, part.end - wanted) for app_id, part in ends.items()}
        frames: list[pl.DataFrame] = []
        while (batch := capture.read(positions, MOST_SEARCHED)) is not None:
            frames.append(_placed_record(batch.frame))
            positions |= batch.positions
            if not batch.more:
                break
        if frames:
            yield _matching(pl.concat(frames), where).tail(rows)
        while stop is not None and not stop():
            if (batch := capture.read(positions, MOST_SEARCHED, _POLL_SECONDS)) is not None:
                positions |= batch.positions
                yield _matching(_placed_record(batch.frame), where)


def _placed_record(frame: pl.DataFrame) -> pl.DataFrame:
    place = pl.format("{}/{}", "_partition", "_offset")
    return frame.with_columns(place.alias(POSITION), pl.col("_timestamp").alias(TIME))


def _of_table(
    lake: Lake, key: tuple[str, str], rows: int, where: str | None, stop: Callable[[], bool] | None
) -> Iterator[pl.DataFrame]:
    table = lake.open(*key)
    if not is_numbered(table):
        if stop is not None:
            raise SettingsError(
                f"{'/'.join(key)} has the current rows of a source's table, in no order that could be followed",
                f"follow {'/'.join(key)}_history, which has every change",
            )
        yield _matching(_placed_row(scan(table).collect()), where).tail(rows)
        return
    seen = commits_of(table).newest
    yield _newest(table, seen, rows, where)
    while stop is not None and not stop():
        time.sleep(_POLL_SECONDS)
        table.update_incremental()
        if (newest := commits_of(table).newest) > seen:
            yield _matching(_placed_row(rows_since(table, seen).scan(table).collect()), where)
            seen = newest


def _newest(table: DeltaTable, newest: int, rows: int, where: str | None) -> pl.DataFrame:
    """The newest rows that match: looks further and further back until there are enough."""
    for back in (1, 10, 100, 1_000, 10_000, newest + 1):
        after = max(newest - back, NOTHING)
        found = _matching(_placed_row(rows_since(table, after).scan(table).collect()), where)
        if found.height >= rows or after == NOTHING:
            break
    return found.tail(rows)


def _placed_row(frame: pl.DataFrame) -> pl.DataFrame:
    is_numbered = COMMIT in frame.columns
    place = pl.format("commit {}", pl.col(COMMIT).fill_null(0)) if is_numbered else pl.lit("-")
    moments = [name for name in _TIMES if isinstance(frame.schema.get(name), pl.Datetime)]
    moment = pl.col(moments[0]) if moments else pl.lit(None, pl.Datetime("us", "UTC"))
    placed = frame.with_columns(place.alias(POSITION), moment.alias(TIME))
    return placed.sort(COMMIT, TIME, maintain_order=True, nulls_last=False) if is_numbered else placed


def _matching(frame: pl.DataFrame, where: str | None) -> pl.DataFrame:
    """The rows for which a condition is true.

    Raises:
        SettingsError: it is no condition over the columns.
    """
    if where is None or frame.is_empty():
        return frame
    config: Mapping[str, str] = {"enable_external_access": "false", "autoload_known_extensions": "false"}
    with duckdb.connect(":memory:", config=dict(config)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("records", frame.with_row_index("_row").to_arrow())
        try:
            found = connection.execute(f"select _row from records where ({where}\n)").fetchall()  # noqa: S608  # the operator's own
        except duckdb.Error as error:
            columns = ", ".join(frame.columns)
            raise SettingsError(
                f"--where: {str(error).splitlines()[0]}", f"write a condition in SQL over: {columns}"
            ) from None
    return frame[[row for (row,) in sorted(found)]]
