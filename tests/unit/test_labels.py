"""`silver/labels`: labels of streams, declared tables and files, each version once, with the time it was known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.detection.labels import LABELS, LabelWriter, import_labels, label_counts
from fraud_lakehouse.errors import InputFileError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.storage.schemas import UTC_MICROSECONDS, with_ingestion
from tests.declared import write

DELAY = timedelta(days=7)
PAID = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOURCES = """\
cards:
  type: kafka
  servers_env: SHOP_SERVERS
  topics:
    - topic: card
      table: card
      format: json
      fields: {id: string, at: timestamp, amt: double, fraud: int64, who: string}
bank: {type: postgres, dsn_env: SHOP_DSN, tables: [chargeback, transfers]}
"""
STREAMS = """\
cards: {from: card, kind: events, id: id, time: at, amount: amt, label: fraud, entities: {user: who}}
transfers: {from: transfers, kind: changes, id: id, time: at, amount: amt, label: fraud, entities: {user: who}}
"""
LABELS_FILE = """\
chargebacks:
  from: chargeback
  stream: {column: stream}
  transaction_id: payment
  is_fraud: true
  known_at: reported_at
  note: reason
"""
CARD: dict[str, pl.DataType] = {
    "id": pl.String(),
    "at": pl.Datetime("us"),
    "fraud": pl.Int64(),
    "_topic": pl.String(),
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_timestamp": UTC_MICROSECONDS,
    "_error": pl.String(),
}
CHANGE: dict[str, pl.DataType] = {
    "_op": pl.String(),
    "_lsn": pl.Int64(),
    "_seq": pl.Int64(),
    "_committed_at": UTC_MICROSECONDS,
}
CHARGEBACK: dict[str, pl.DataType] = {
    "stream": pl.String(),
    "payment": pl.Int64(),
    "reported_at": pl.Datetime("us"),
    "reason": pl.String(),
    **CHANGE,
}
TRANSFER: dict[str, pl.DataType] = {"id": pl.Int64(), "at": pl.Datetime("us"), "fraud": pl.Boolean(), **CHANGE}


class Shop:
    """A lake whose bronze tables a test fills."""

    def __init__(self, folder: Path) -> None:
        write(folder, SOURCES, STREAMS)
        (folder / "labels.yml").write_text(LABELS_FILE)
        self.settings = Settings(lake=str(folder / "lake"), pipeline=folder, label_delay=int(DELAY.total_seconds()))
        self.lake = Lake.at(self.settings.lake)
        self.writer = LabelWriter(self.settings, self.lake)
        self._offset = 0

    def add(self, table: str, schema: Mapping[str, pl.DataType], *rows: dict[str, Any]) -> None:
        appender = Appender.open(self.lake, "bronze", table, with_ingestion(schema))
        appender.append(pl.DataFrame(list(rows), schema={name: schema[name] for name in schema}), {})

    def card(self, payment: str | None, fraud: int | None, recorded: datetime = PAID, **more: Any) -> dict[str, Any]:
        self._offset += 1
        own = {"id": payment, "at": PAID.replace(tzinfo=None), "fraud": fraud, "_timestamp": recorded}
        return {**own, "_topic": "card", "_partition": 0, "_offset": self._offset, **more}

    def labels(self) -> list[tuple[str, str, bool, datetime, str]]:
        if not self.lake.exists(*LABELS):
            return []
        rows = scan(self.lake.open(*LABELS)).sort("_commit", "_seq")
        return rows.select("stream", "transaction_id", "is_fraud", "known_at", "origin").collect().rows()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_streams_label_is_known_after_its_delay(shop: Shop) -> None:
    shop.add("card", CARD, shop.card("a", 0), shop.card("b", 1), shop.card("c", None))
    assert shop.writer.write() == 2
    assert shop.labels() == [
        ("cards", "a", False, PAID + DELAY, "source"),
        ("cards", "b", True, PAID + DELAY, "source"),
    ]


def test_a_record_without_id_is_named_by_its_position_and_an_unreadable_one_is_left_out(shop: Shop) -> None:
    shop.add("card", CARD, shop.card(None, 1), shop.card("x", 1, _error="broken"))
    shop.writer.write()
    assert [row[1] for row in shop.labels()] == ["card/0/1"]


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_a_payment_sent_again_with_another_label_is_one_more_version(shop: Shop, batches: int) -> None:
    late = PAID + timedelta(days=30)
    sent = [
        shop.card("a", 0),
        shop.card("a", 0, PAID + timedelta(days=1)),  # the same label: nothing new
        shop.card("a", 1, late),
        shop.card("a", 1, late + timedelta(days=1)),
        shop.card("a", 0, late + timedelta(days=2)),
    ]
    for number in range(batches):
        shop.add("card", CARD, *sent[number * len(sent) // batches : (number + 1) * len(sent) // batches])
        shop.writer.write()
    assert [(row[2], row[3]) for row in shop.labels()] == [
        (False, PAID + DELAY),
        (True, late),
        (False, late + timedelta(days=2)),
    ]
    assert label_counts(shop.lake).row(0, named=True) == {
        "stream": "cards",
        "origin": "source",
        "labels": 3,
        "payments": 1,
        "frauds": 0,
        "changed": 1,
    }


def test_a_correction_is_not_known_before_the_label_that_it_replaces(shop: Shop) -> None:
    shop.add("card", CARD, shop.card("a", 0), shop.card("a", 1, PAID + timedelta(days=2)))
    shop.writer.write()
    assert [(row[2], row[3]) for row in shop.labels()] == [(False, PAID + DELAY), (True, PAID + DELAY)]


def test_an_update_that_sets_a_label_is_known_at_its_commit(shop: Shop) -> None:
    committed = PAID + timedelta(days=3)
    row = {"id": 1, "at": PAID.replace(tzinfo=None), "_seq": 0}
    shop.add(
        "transfers",
        TRANSFER,
        {**row, "fraud": None, "_op": "c", "_lsn": 1, "_committed_at": PAID},
        {**row, "fraud": True, "_op": "u", "_lsn": 2, "_committed_at": committed},
        {**row, "fraud": None, "_op": "d", "_lsn": 3, "_committed_at": committed + timedelta(days=1)},
    )
    shop.writer.write()
    assert shop.labels() == [("transfers", "1", True, committed, "source")]


def test_labels_of_a_declared_table_are_known_at_its_time_else_at_the_commit(shop: Shop) -> None:
    reported = PAID + timedelta(days=20)
    row = {"stream": "cards", "reason": "stolen", "_op": "c", "_lsn": 1, "_seq": 0, "_committed_at": reported}
    known = {**row, "payment": 7, "reported_at": (reported - timedelta(days=2)).replace(tzinfo=None)}
    shop.add("chargeback", CHARGEBACK, known, {**row, "payment": 8, "reported_at": None})
    assert shop.writer.write_declared() == 2
    assert shop.labels() == [
        ("cards", "7", True, reported - timedelta(days=2), "chargeback"),
        ("cards", "8", True, reported, "chargeback"),
    ]


def test_rows_without_a_usable_label_are_recorded_and_the_others_are_kept(shop: Shop) -> None:
    row = {"reported_at": PAID.replace(tzinfo=None), "_op": "c", "_lsn": 1, "_seq": 0, "_committed_at": PAID}
    shop.add(
        "chargeback",
        CHARGEBACK,
        {**row, "stream": "card", "payment": 7},
        {**row, "stream": "cards", "payment": None},
        {**row, "stream": "cards", "payment": 9},
    )
    assert shop.writer.write() == 1
    rejected = Audit(shop.lake).rows("labels:chargebacks")
    assert [(one.event, one.detail["rows"]) for one in rejected] == [("labels_rejected", 2)]
    assert "the stream is card, expected one of streams.yml" in rejected[0].detail["examples"][0]


def test_the_problem_of_one_input_stops_no_other(shop: Shop) -> None:
    shop.add("chargeback", {"payment": pl.Int64(), **CHANGE}, {"payment": 1, "_op": "c", "_lsn": 1})
    shop.add("card", CARD, shop.card("a", 1))
    assert shop.writer.write() == 1
    assert "bronze/chargeback has no column stream, reported_at, reason" in shop.writer.problems["chargebacks"]


def test_a_new_process_and_a_table_captured_anew_add_no_label_twice(shop: Shop) -> None:
    sent = [shop.card("a", 0), shop.card("b", 1)]
    shop.add("card", CARD, *sent)
    shop.writer.write()
    assert LabelWriter(shop.settings, shop.lake).write() == 0
    root = Path(shop.lake.uri("bronze", "card"))
    root.rename(root.with_name("old"))
    shop.add("card", CARD, *sent, shop.card("c", 1))
    assert LabelWriter(shop.settings, shop.lake).write() == 1
    assert [row[1] for row in shop.labels()] == ["a", "b", "c"]


def test_two_writers_at_once_add_each_label_once(shop: Shop) -> None:
    other = LabelWriter(shop.settings, shop.lake)
    shop.add("card", CARD, shop.card("a", 0))
    assert (shop.writer.write(), other.write()) == (1, 0)
    shop.add("card", CARD, shop.card("b", 0))
    assert (other.write(), shop.writer.write()) == (1, 0)


CSV = """\
stream,transaction_id,is_fraud,known_at,origin,author,note
cards,007,1,2026-03-05T10:00:00+02:00,,ann,"two
lines"
cards,8,false,2026-03-06 10:00:00,analyst,,
"""


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_imported_twice_adds_nothing(shop: Shop, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"labels.{ending}"
    if ending == "csv":
        path.write_text(CSV)
    else:
        pl.read_csv(CSV.encode(), infer_schema=False).write_parquet(path)
    assert import_labels(shop.lake, path, ["cards"]).added == 2
    assert import_labels(shop.lake, path, ["cards"]).added == 0
    assert shop.labels() == [
        ("cards", "007", True, datetime(2026, 3, 5, 8, tzinfo=UTC), "chargeback"),
        ("cards", "8", False, datetime(2026, 3, 6, 10, tzinfo=UTC), "analyst"),
    ]


def test_a_file_with_wrong_rows_adds_nothing_and_names_their_lines(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        CSV
        + "".join(
            f"{row},,,\n"
            for row in ("crads,9,1,2026-03-06", "cards,,1,2026-03-06", "cards,9,2,2026-03-06", "cards,9,1,soon")
        )
    )
    with pytest.raises(InputFileError) as raised:
        import_labels(shop.lake, path, ["cards"])
    assert [line.partition(":")[0] for line in raised.value.problem.splitlines()[1:]] == [
        f"line {n}" for n in (5, 6, 7, 8)
    ]
    assert "line 5: stream crads, expected one of cards" in raised.value.problem
    assert shop.labels() == []


def test_a_file_without_a_required_column_is_refused(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("stream,transaction_id,is_fraud\ncards,1,1\n")
    with pytest.raises(InputFileError, match="has no column known_at"):
        import_labels(shop.lake, path, ["cards"])
