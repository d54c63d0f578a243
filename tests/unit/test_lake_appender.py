"""One commit holds rows and positions; rivals are refused; nothing but whole versions is ever seen."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.housekeeping import CHECKPOINT_INTERVAL
from fraud_lakehouse.storage.lake import Lake
from tests.full_disk import no_file_beyond

SCHEMA: dict[str, pl.DataType] = {
    "id": pl.Int64(),
    "amount": pl.Decimal(10, 2),
    "born": pl.Date(),
    "at": pl.Datetime("us"),
    "_op": pl.String(),
    "_lsn": pl.Int64(),
    "_committed_at": pl.Datetime("us", "UTC"),
    "_unchanged": pl.String(),
    "_text": pl.String(),
}


def rows(*ids: int, lsn: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "id": i,
                "amount": Decimal("1.25"),
                "born": date(1999, 12, 31),
                "at": datetime(2024, 2, 29, 12, 0, 0, 1),  # noqa: DTZ001  a timestamp without zone is what it is
                "_op": "c",
                "_lsn": lsn,
                "_committed_at": datetime(2024, 2, 29, 12, tzinfo=UTC),
            }
            for i in ids
        ],
        schema=SCHEMA,
    )


def bronze(tmp_path: Path) -> BronzeTable:
    return BronzeTable.open_or_create(Lake.at(tmp_path), "t", SCHEMA, ["id"])


def ids(tmp_path: Path) -> list[int]:
    return pl.read_delta(str(tmp_path / "bronze/t"))["id"].sort().to_list()


def test_rows_and_position_are_one_commit(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    assert table.position("pg:1:s:t") is None
    assert table.append(rows(1, 2), {"pg:1:s:t": 10}) == 1
    assert table.position("pg:1:s:t") == 10
    entry = durable.log_entry(tmp_path / "bronze/t", 1).read_text().splitlines()
    kinds = {kind for line in entry for kind in json.loads(line)}
    assert {"add", "txn"} <= kinds
    again = bronze(tmp_path)
    assert again.position("pg:1:s:t") == 10
    assert ids(tmp_path) == [1, 2]


def test_schema_key_and_stamp(tmp_path: Path) -> None:
    bronze(tmp_path).append(rows(1), {"a": 1})
    handle = DeltaTable(str(tmp_path / "bronze/t"))
    assert handle.metadata().configuration["fraud_lakehouse.key"] == '["id"]'
    fields = {field["name"]: field for field in json.loads(handle.schema().to_json())["fields"]}
    assert list(fields)[5:10] == ["_lsn", "_committed_at", "_ingested_at", "_commit", "_unchanged"]
    assert all(field["nullable"] for field in fields.values())
    assert fields["at"]["type"] == "timestamp_ntz"
    assert fields["amount"]["type"] == "decimal(10,2)"
    ingested = pl.read_delta(str(tmp_path / "bronze/t"))
    assert abs((datetime.now(UTC) - ingested["_ingested_at"][0]).total_seconds()) < 60


def test_positions_alone_write_no_file(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    table.append(rows(), {"a": 7})
    assert table.position("a") == 7
    assert DeltaTable(str(tmp_path / "bronze/t")).file_uris() == []
    assert list((tmp_path / "bronze/t").glob("*.parquet")) == []


def test_a_rival_is_refused_and_continues_after_reading_again(tmp_path: Path) -> None:
    first, second = bronze(tmp_path), bronze(tmp_path)
    first.append(rows(1), {"a": 1})
    with pytest.raises(ConcurrentWriterError):
        second.append(rows(1), {"a": 1})
    assert second.position("a") == 1
    assert len(list((tmp_path / "bronze/t").glob("*.parquet"))) == 1, "the refused rows' file is removed"
    second.append(rows(2), {"a": 2})
    assert ids(tmp_path) == [1, 2]
    with pytest.raises(ConcurrentWriterError):
        first.append(rows(2), {"a": 2})
    assert ids(tmp_path) == [1, 2]


def test_a_rival_is_refused_even_when_a_new_column_comes_first(tmp_path: Path) -> None:
    first, second = bronze(tmp_path), bronze(tmp_path)
    first.append(rows(1), {"a": 1})
    with pytest.raises(ConcurrentWriterError):
        second.append(rows(1).with_columns(more=pl.lit("x")), {"a": 1})
    assert ids(tmp_path) == [1]


def test_other_app_ids_do_not_disturb_each_other(tmp_path: Path) -> None:
    """In a table without commit numbers: several writers have it."""
    first, second = (Appender.open(Lake.at(tmp_path), "bronze", "t", SCHEMA, numbered=False) for _ in range(2))
    first.append(rows(1), {"a": 1})
    second.append(rows(2), {"b": 1})
    assert ids(tmp_path) == [1, 2]
    assert second.position("a") == 1


def test_a_new_column_is_added_and_older_rows_read_null(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    table.append(rows(1), {"a": 1})
    table.append(rows(2).with_columns(city=pl.lit("Bonn"), nothing=pl.lit(None)), {"a": 2})
    table.append(rows(3), {"a": 3})
    ingested = pl.read_delta(str(tmp_path / "bronze/t")).sort("id")
    assert ingested["city"].to_list() == [None, "Bonn", None]
    assert ingested.schema["nothing"] == pl.String


def test_a_column_the_source_dropped_becomes_null(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    table.append(rows(1).drop("amount"), {"a": 1})
    assert pl.read_delta(str(tmp_path / "bronze/t"))["amount"].to_list() == [None]


def test_values_that_outgrow_the_tables_type_are_kept_as_text(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    wide = rows(1, 2, 3).with_columns(
        amount=pl.Series([Decimal("1.5"), Decimal("123456789012.34"), None], dtype=pl.Decimal(20, 2)),
        _text=pl.Series([None, '{"other": "NaN"}', None], dtype=pl.String),
    )
    table.append(wide, {"a": 1})
    ingested = pl.read_delta(str(tmp_path / "bronze/t")).sort("id")
    assert ingested["amount"].to_list() == [Decimal("1.50"), None, None]
    assert ingested["_text"].to_list() == [None, '{"other": "NaN", "amount": "123456789012.34"}', None]


def test_every_version_opens_in_other_libraries(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    for number in range(1, 5):
        frame = rows(number, -number)
        table.append(frame.with_columns(extra=pl.lit(1.5)) if number == 3 else frame, {"a": number})
    uri = str(tmp_path / "bronze/t")
    newest = table.version
    assert newest == 5, "four appends and one new column"
    counts = []
    for version in range(newest + 1):
        handle = DeltaTable(uri, version=version)
        files = handle.file_uris()
        with_polars = pl.read_delta(uri, version=version).height
        with_arrow = sum(pyarrow.parquet.read_table(file).num_rows for file in files)
        with_duckdb = (
            duckdb.connect()
            .execute("select count(*), max(_committed_at) from read_parquet($1, union_by_name = true)", [files])
            .fetchone()
            if files
            else (0,)
        )
        assert with_polars == with_arrow == with_duckdb[0]
        counts.append(with_polars)
    assert counts == [0, 2, 4, 4, 6, 8]


def test_file_statistics_prune_truly(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    table.append(rows(1, 2, lsn=5), {"a": 5})
    table.append(rows(3, lsn=9).with_columns(at=None), {"a": 9})
    actions = DeltaTable(str(tmp_path / "bronze/t")).get_add_actions(flatten=True)
    stats = {
        tuple(sorted(row.items()))
        for row in pl.DataFrame(actions).select("num_records", "min._lsn", "max._lsn", "null_count.at").to_dicts()
    }
    assert stats == {
        (("max._lsn", 5), ("min._lsn", 5), ("null_count.at", 0), ("num_records", 2)),
        (("max._lsn", 9), ("min._lsn", 9), ("null_count.at", 1), ("num_records", 1)),
    }
    assert pl.scan_delta(str(tmp_path / "bronze/t")).filter(pl.col("_lsn") > 5).collect()["id"].to_list() == [3]


def test_positions_survive_checkpoints(tmp_path: Path) -> None:
    table = Appender.open(Lake.at(tmp_path), "control", "t", {"x": pl.Int64()})
    for number in range(1, CHECKPOINT_INTERVAL + 6):
        table.append(pl.DataFrame({"x": [number]}), {"a": number, "once": 3} if number == 1 else {"a": number})
    assert list((tmp_path / "control/t/_delta_log").glob("*.checkpoint.parquet"))
    again = Appender.open(Lake.at(tmp_path), "control", "t", {"x": pl.Int64()})
    assert again.position("a") == CHECKPOINT_INTERVAL + 5
    assert again.position("once") == 3


def test_rebuild_empties_the_table_and_keeps_its_history(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    table.append(rows(1), {"a": 1})
    before = table.version
    table.rebuild({**SCHEMA, "new": pl.String()}, ["id", "new"])
    assert ids(tmp_path) == []
    table.append(rows(5), {"a": 9})
    handle = DeltaTable(str(tmp_path / "bronze/t"))
    assert handle.metadata().configuration["fraud_lakehouse.key"] == '["id", "new"]'
    assert ids(tmp_path) == [5]
    assert pl.read_delta(str(tmp_path / "bronze/t"), version=before)["id"].to_list() == [1]


def test_an_untouched_table_is_not_rebuilt(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    table.rebuild(SCHEMA, ["id"])
    assert table.version == 0


@pytest.mark.parametrize("torn", [b"", b"\0" * 64, None], ids=["empty", "zeros", "cut short"])
def test_a_commit_torn_by_a_power_loss_is_set_aside(tmp_path: Path, torn: bytes | None) -> None:
    table = bronze(tmp_path)
    table.append(rows(1), {"a": 1})
    table.append(rows(2), {"a": 2})
    entry = durable.log_entry(tmp_path / "bronze/t", 2)
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2] if torn is None else torn)
    again = bronze(tmp_path)
    assert again.position("a") == 1
    again.append(rows(2), {"a": 2})
    assert ids(tmp_path) == [1, 2]


def test_an_unwritable_lake_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match=r"file.*(?s:.)*FRAUD_LAKE"):
        BronzeTable.open_or_create(Lake.at(tmp_path / "file"), "t", SCHEMA, ["id"])


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    table.append(rows(1), {"a": 1})
    with pytest.raises(LakeError, match="free space"), no_file_beyond(200):
        table.append(rows(2), {"a": 2})
    assert table.position("a") == 1
    table.append(rows(2), {"a": 2})
    assert ids(tmp_path) == [1, 2]
    assert len(list((tmp_path / "bronze/t").glob("*.parquet"))) == 2


def test_what_a_commit_wrote_is_fsynced_before_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = bronze(tmp_path)
    order: list[str] = []
    sync = durable._sync

    def recorded(path: Path, flags: int) -> None:
        exists = durable.log_entry(tmp_path / "bronze/t", 1).exists()
        order.append(f"{path.name if path.suffix != '.parquet' else 'parquet'}{' (committed)' if exists else ''}")
        sync(path, flags)

    monkeypatch.setattr(durable, "_sync", recorded)
    table.append(rows(1), {"a": 1})
    assert order == ["parquet", "t", f"{1:020}.json (committed)", "_delta_log (committed)"]


def test_a_commit_that_missed_its_fsync_gets_it_at_the_next_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bronze(tmp_path).append(rows(1), {"a": 1})
    synced: list[str] = []
    monkeypatch.setattr(durable, "_sync", lambda path, _flags: synced.append(path.name))
    bronze(tmp_path)
    assert f"{1:020}.json" in synced
