"""Transactions of every shape through the whole path in small pieces: each row once, numbered, in one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import polars as pl
import psycopg
import pytest

from fraud_lakehouse import failpoints
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.postgres import PostgresIngest
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.postgres import connection as postgres_connection
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.pgoutput.runs import Runs
from fraud_lakehouse.storage.lake import Lake
from tests.integration.replayed import Replayed, read_whole, source_rows
from tests.interruption import Crash, crash

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]

PIECE = 50
Open = Callable[..., PostgresCapture]


@pytest.fixture
def tables(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database) as connection:
        for name in ("a", "b", "c"):
            connection.execute(f"create table {name} (id int primary key, note text)")
        connection.commit()
        yield connection


@pytest.fixture
def ingest_of(database: str, tmp_path: Path) -> Iterator[Callable[[], PostgresIngest]]:
    """Opens ingests of one lake and slot, each as a new process would; their pieces hold about PIECE messages."""
    settings = Settings(lake=str(tmp_path / "lake"), postgres_dsn=database, postgres_slot=f"s_{uuid4().hex[:12]}")
    opened: list[PostgresIngest] = []

    def open_ingest() -> PostgresIngest:
        ingest = PostgresIngest(settings, Lake.at(settings.lake))
        ingest.capture._runs = Runs(settings.work_dir, most_messages=PIECE)
        opened.append(ingest)
        return ingest

    yield open_ingest
    for ingest in opened:
        ingest.close()


@pytest.fixture
def followed(tables: psycopg.Connection, capture_of: Open, tmp_path: Path) -> tuple[PostgresCapture, Replayed]:
    """A capture in small pieces whose snapshot was taken, and the model of its tables."""
    capture, model = capture_of(), Replayed()
    capture._runs = Runs(tmp_path, most_messages=PIECE)
    model.snapshot(capture)
    return capture, model


def bronze(ingest: PostgresIngest, table: str) -> pl.DataFrame:
    return pl.read_delta(ingest.lake.uri("bronze", table)).sort("_lsn", "_seq")


def drain(ingest: PostgresIngest) -> list[int]:
    return [item.rows for ingested in iter(lambda: ingest.step(100), []) for item in ingested]


def test_a_large_transaction_is_staged_in_pieces_and_committed_once(
    tables: psycopg.Connection,
    ingest_of: Callable[[], PostgresIngest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ingest = ingest_of()
    drain(ingest)
    before = ingest._changes.table(ingest.capture.tables()[0]).version
    tables.execute("insert into a select g, 'x' from generate_series(1, 2000) g")
    tables.commit()
    tables.execute("insert into a values (-1, 'after')")
    tables.commit()
    heights: list[int] = []
    stage = BronzeTable.stage

    def recorded(table: BronzeTable, frame: pl.DataFrame) -> None:
        heights.append(frame.height)
        stage(table, frame)

    monkeypatch.setattr(BronzeTable, "stage", recorded)
    ingested = ingest.step(100)
    assert [(item.table, item.rows, item.version) for item in ingested] == [("a", 2000, before + 1)]
    chunk = postgres_connection._CHUNK_ROWS
    assert len(heights) >= 2000 // (PIECE + chunk)
    assert max(heights) < PIECE + chunk
    drain(ingest)
    events = bronze(ingest, "a")
    large = events.filter(pl.col("id") > 0)
    assert large["id"].to_list() == list(range(1, 2001))
    assert large["_seq"].to_list() == list(range(3, 4003, 2))
    assert large["_lsn"].n_unique() == large["_committed_at"].n_unique() == 1
    assert events["id"][-1] == -1
    assert ingest.capture.lag().confirmed_lsn >= events["_lsn"][-1]


@pytest.mark.parametrize("point", ["bronze.after_parquet", "bronze.before_commit", "postgres.before_position"])
def test_a_death_before_the_commit_leaves_no_row_and_all_is_landed_next_time(
    tables: psycopg.Connection, ingest_of: Callable[[], PostgresIngest], point: str
) -> None:
    first = ingest_of()
    drain(first)
    for name in ("a", "b"):
        tables.execute(f"insert into {name} select g, 'x' from generate_series(1, 700) g")
    tables.commit()

    failpoints.arm(point, 3 if point == "bronze.after_parquet" else 1, action=crash)
    with pytest.raises(Crash):
        first.step(100)
    if point != "postgres.before_position":
        assert bronze(first, "a").height == bronze(first, "b").height == 0
    again = ingest_of()
    drain(again)
    for name in ("a", "b"):
        assert bronze(again, name)["id"].to_list() == list(range(1, 701))


def test_a_failure_removes_what_was_staged(
    tables: psycopg.Connection, ingest_of: Callable[[], PostgresIngest], monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = ingest_of()
    drain(ingest)
    tables.execute("insert into a select g, 'x' from generate_series(1, 1500) g")
    tables.commit()
    folder = Path(ingest.lake.uri("bronze", "a"))
    commit = BronzeTable.commit

    def full(_table: BronzeTable, _positions: object) -> int:
        assert len(list(folder.glob("*.parquet"))) > 3
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BronzeTable, "commit", full)
    with pytest.raises(OSError, match="No space"):
        ingest.step(100)
    assert list(folder.glob("*.parquet")) == []
    monkeypatch.setattr(BronzeTable, "commit", commit)
    assert drain(ingest) == [1500]


def test_a_transaction_over_three_tables_with_savepoints(
    tables: psycopg.Connection, followed: tuple[PostgresCapture, Replayed], database: str
) -> None:
    capture, model = followed
    for number in range(60):
        with tables.transaction():
            for name in ("a", "b", "c"):
                ids = [10 * number, 10 * number + 5]
                tables.execute(f"insert into {name} select g, 's' from generate_series(%s::int, %s::int) g", ids)
        with tables.transaction() as inner:
            tables.execute("insert into b select g, 'gone' from generate_series(10000, 10020) g")
            with tables.transaction():
                tables.execute("delete from a where id %% 7 = %s", [number % 7])
            raise psycopg.Rollback(inner)
        tables.execute("update c set note = note || 'u', id = id + 1 where id = %s", [10 * number + 5])
        tables.execute("delete from b where id = %s", [10 * number])
    tables.commit()
    model.follow(capture, max_rows=10)
    for name in ("a", "b", "c"):
        assert model.rows[name] == source_rows(database, name, ("id",))
    assert model.ops["c"] == 3 * 60 * 6, "nothing of what was rolled back"


def test_two_phase_commits_are_landed_when_they_are_committed(
    tables: psycopg.Connection, followed: tuple[PostgresCapture, Replayed], database: str
) -> None:
    capture, model = followed
    with psycopg.connect(database, autocommit=True) as other:
        tables.execute("insert into a select g, 'p' from generate_series(1, 300) g")
        tables.execute("prepare transaction 'kept'")
        tables.rollback()
        tables.execute("insert into b values (1, 'p')")
        tables.execute("prepare transaction 'undone'")
        tables.rollback()
        other.execute("insert into c values (1, 'meanwhile')")
        model.follow(capture)
        assert (len(model.rows["a"]), len(model.rows["c"])) == (0, 1)
        other.execute("commit prepared 'kept'")
        other.execute("rollback prepared 'undone'")
    model.follow(capture)
    assert {name: len(model.rows[name]) for name in ("a", "b", "c")} == {"a": 300, "b": 0, "c": 1}
    assert model.rows["a"] == source_rows(database, "a", ("id",))


def test_nothing_beyond_until_is_read_and_the_end_is_there(
    tables: psycopg.Connection, followed: tuple[PostgresCapture, Replayed]
) -> None:
    capture, model = followed
    ends = []
    for number in range(3):
        tables.execute(
            "insert into a select g, 'x' from generate_series(%s::int, %s::int) g", [100 * number, 100 * number + 99]
        )
        tables.commit()
        ends.append(capture.lag().current_lsn)
    changes = capture.changes(model.after, model.position, 1000, until=ends[1])
    assert [i for piece in changes for i in piece.frames["a"]["id"].to_list()] == list(range(200))
    assert changes.end_lsn == ends[1]
    rest = capture.changes(dict.fromkeys(model.after, ends[1]), ends[1], 1000, until=ends[1])
    assert list(rest) == []
    assert rest.end_lsn == ends[1]
    batch = read_whole(capture, dict.fromkeys(model.after, ends[1]), ends[1], 1000)
    assert batch is not None
    assert batch.frames["a"]["id"].to_list() == list(range(200, 300))


def test_a_reader_that_stops_half_way_can_begin_again(
    tables: psycopg.Connection, followed: tuple[PostgresCapture, Replayed]
) -> None:
    capture, model = followed
    tables.execute("insert into a select g, repeat('x', 500) from generate_series(1, 20000) g")
    tables.commit()
    changes = capture.changes(model.after, model.position, 1000)
    first = next(iter(changes))
    assert 0 < first.frames["a"].height < 20_000
    assert changes.end_lsn == model.position, "not known before the end"
    batch = read_whole(capture, model.after, model.position, 1000)
    assert batch is not None
    assert batch.frames["a"].height == 20_000


def test_an_older_libpq_gives_the_same_row_by_row(
    tables: psycopg.Connection, followed: tuple[PostgresCapture, Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, model = followed
    tables.execute("insert into a select g, 'x' from generate_series(1, 500) g")
    tables.commit()
    whole = read_whole(capture, model.after, model.position, 1000)
    monkeypatch.setattr(postgres_connection.pq, "version", lambda: 150000)
    single = read_whole(capture, model.after, model.position, 1000)
    assert whole is not None
    assert single is not None
    assert single.frames["a"].equals(whole.frames["a"])
