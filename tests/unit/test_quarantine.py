"""Records in quarantine: counted, listed, exported, replayed exactly once whatever happens."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fraud_lakehouse import failpoints
from fraud_lakehouse.checks.contracts import check_positions, check_quarantine
from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.cli import app
from fraud_lakehouse.cli.status_text import render
from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.errors import ConcurrentWriterError, SettingsError
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.quarantine import (
    CorrectionError,
    Quarantine,
    Selection,
    open_count,
    read_corrections,
)
from fraud_lakehouse.ingest.topic_table import open_topic_table
from fraud_lakehouse.pipeline import Field, default_folder
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.sources.kafka.records import RawRecords, RecordDecoder
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import CARD_SCHEMA, CARDS, card, decode
from tests.interruption import Crash, crash

LONG = encode(card(7, merchant="m" * 300))
ALL = Selection()


def land(lake: Lake, values: list[bytes | None], first: int = 0, most_bytes: int = 400) -> None:
    """Land records of partition 0 as capture does; longer ones than `most_bytes` cannot be read."""
    numbers = list(range(first, first + len(values)))
    keys = [b"k%d" % number for number in numbers]
    headers = [[("h", b"v")]] * len(values)
    records = RawRecords("t", [0] * len(values), numbers, [1_700_000_000_000] * len(values), values, keys, headers)
    bronze = BronzeTable.open_or_create(lake, "card_transactions", CARD_SCHEMA, ())
    bronze.append(decode(records, most_bytes), {"kafka:C:T:0": first + len(values)})


def cards(lake: Lake) -> pl.DataFrame:
    return pl.read_delta(lake.uri("bronze", "card_transactions")).sort("_offset", "_ingested_at")


def waiting(lake: Lake) -> int:
    counted = open_count(lake.open("bronze", "card_transactions"))
    assert counted == len(Quarantine(lake, CARDS).records(ALL))  # the log and the rows say the same
    return counted


def test_a_replayed_record_keeps_its_place_key_and_headers(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land(lake, [encode(card(0)), LONG, b"{", None])
    assert waiting(lake) == 2  # a tombstone does not wait for anything
    assert Quarantine(lake, replace(CARDS, max_record_bytes=400)).replay(ALL).rows == 0
    result = Quarantine(lake, CARDS).replay(ALL)
    assert (result.rows, result.refused) == (1, {"not JSON: Input data was truncated": 1})
    assert waiting(lake) == 1
    bad, good = cards(lake).filter(_offset=1).iter_rows(named=True)
    assert bad["_raw"] == LONG and bad["trans_num"] is None and bad["_quarantined_at"] is None
    assert good["merchant"] == "m" * 300 and good["_raw"] is None and good["_error"] is None
    assert good["_quarantined_at"] == bad["_ingested_at"] < good["_ingested_at"]
    for name in ("_topic", "_partition", "_offset", "_timestamp", "_key", "_headers"):
        assert good[name] == bad[name] is not None
    assert (bad["_key"], bad["_headers"]) == (b"k1", '[["h","text","v"]]')


def test_twice_replays_once(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land(lake, [LONG] * 3)
    land(lake, [LONG] * 2, 3)
    assert Quarantine(lake, CARDS).replay(ALL).rows == 5
    assert Quarantine(lake, CARDS).replay(ALL).rows == 0
    assert (cards(lake).height, waiting(lake)) == (10, 0)


def test_only_what_is_selected(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land(lake, [LONG, LONG, b"[]"])
    records = Quarantine(lake, CARDS).records(Selection(reason="longer than"))
    assert [(one["offset"], one["bytes"]) for one in records] == [(0, len(LONG)), (1, len(LONG))]
    assert records[0]["start"] == LONG[:60].decode()
    assert Quarantine(lake, CARDS).records(ALL, limit=1)[0]["offset"] == 0
    assert Quarantine(lake, CARDS).replay(Selection(partition=1)).rows == 0
    assert Quarantine(lake, CARDS).replay(Selection(offset=1)).rows == 1
    assert [one["offset"] for one in Quarantine(lake, CARDS).records(ALL)] == [0, 2]


def test_a_rival_replay_is_refused(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land(lake, [LONG])

    def rival() -> None:
        assert Quarantine(lake, CARDS).replay(ALL).rows == 1

    failpoints.arm("quarantine.before_append", action=rival)
    with pytest.raises(ConcurrentWriterError):
        Quarantine(lake, CARDS).replay(ALL)
    assert (cards(lake).height, waiting(lake)) == (2, 0)


def test_a_replay_goes_on_while_capture_commits_to_the_table(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land(lake, [LONG])
    captured = iter(range(1, 4))

    def capture() -> None:
        failpoints.disarm()
        if (offset := next(captured, None)) is not None:
            land(lake, [encode(card(offset))], offset)
            failpoints.arm("bronze.before_commit", action=capture)

    failpoints.arm("bronze.before_commit", action=capture)
    assert Quarantine(lake, CARDS).replay(ALL).rows == 1
    assert waiting(lake) == 0
    assert sorted(cards(lake)["_offset"]) == [0, 0, 1, 2, 3]
    assert cards(lake).sort("_commit")["_offset"].to_list() == [0, 1, 2, 3, 0], "the replayed one is the newest"


points = st.sampled_from(["quarantine.before_append", "bronze.after_parquet", "bronze.after_commit"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 3), st.tuples(points, st.integers(1, 3))), max_size=6))
def test_each_record_is_replayed_once_through_any_crash(actions: list[int | tuple[str, int]]) -> None:
    offset = 0
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.at(folder)
        for action in actions:
            if isinstance(action, int):
                land(lake, [LONG] * action, offset)
                offset += action
                continue
            failpoints.arm(*action, action=crash)
            with contextlib.suppress(Crash):
                Quarantine(lake, CARDS).replay(ALL)
            failpoints.disarm()
        Quarantine(lake, CARDS).replay(ALL)
        if offset:
            good = cards(lake).filter(pl.col("_error").is_null())
            assert good["_offset"].to_list() == list(range(offset))
            assert waiting(lake) == 0


def test_corrected_values_are_replayed_for_their_records_only(tmp_path: Path) -> None:
    lake, file = Lake.at(tmp_path / "lake"), tmp_path / "bad.jsonl"
    wrong = encode(card(2)).replace(b"82.55", b'"82,55"')
    land(lake, [wrong, b"\xff\x00", b"{"])
    assert Quarantine(lake, CARDS).export(ALL, file) == 3
    assert read_corrections(file).keys() == {("t", 0, n, cards(lake)["_ingested_at"][0]) for n in range(3)}
    assert sorted(read_corrections(file).values()) == sorted([wrong, b"\xff\x00", b"{"])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["error"] == "$.amt: expected float, got str"
    lines[0]["value"] = lines[0]["value"].replace('"82,55"', "82.55")
    file.write_text("\n".join(json.dumps(line) for line in lines[:2]))
    result = Quarantine(lake, CARDS).replay(ALL, read_corrections(file))
    assert (result.rows, sum(result.refused.values())) == (1, 1)
    assert cards(lake).filter(_offset=0)["amt"].to_list() == [None, 82.55]
    assert cards(lake).filter(_offset=0)["_raw"].to_list() == [wrong, None]


@pytest.mark.parametrize("line", ["", "[]", '{"topic": "t"}', '{"topic":"t","partition":0,"offset":0}'])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    good = {"topic": "t", "partition": 0, "offset": 1, "value": "x", "quarantined_at": datetime.now(UTC).isoformat()}
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(CorrectionError, match=r"bad.jsonl, line 2: expected a JSON object with topic"):
        read_corrections(file)


def test_a_lake_from_before_these_columns(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    old = {name: kind for name, kind in CARD_SCHEMA.items() if name not in ("_extra", "_key", "_headers")}
    del old["_quarantined_at"]
    row = {"_topic": "t", "_partition": 0, "_offset": 0, "_raw": LONG, "_error": "longer"}
    BronzeTable.open_or_create(lake, "card_transactions", old, ()).append(pl.DataFrame([row], schema=old), {"x": 1})
    assert waiting(lake) == 1
    assert Quarantine(lake, CARDS).replay(ALL).rows == 1
    assert waiting(lake) == 0


def test_contracts_know_replays_and_tombstones(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land(lake, [encode(card(n)) for n in range(80)] + [LONG] * 20 + [None] * 50)
    before = check_quarantine(lake, CARDS)
    assert not before.passed and before.numbers["quarantined"] == 20
    land(lake, [encode(card(200))], 150)
    Quarantine(lake, CARDS).replay(ALL)
    after = check_quarantine(lake, CARDS)
    assert after.passed and (after.numbers["rows"], after.numbers["quarantined"]) == (151, 0)
    assert check_positions(lake, "card_transactions", CARDS).passed


WIRES = replace(CARDS, name="wires", topic="wires", table="wires", fields=(Field(name="amount", type="decimal(9,2)"),))


def ingest_wires(lake: Lake, *values: bytes) -> None:
    records = RawRecords("wires", [0] * len(values), range(len(values)), [0] * len(values), list(values))
    open_topic_table(lake, WIRES).append(RecordDecoder(WIRES).decode(records), {"kafka:C:W:0": len(values)})


def test_each_topic_has_its_own_quarantine(tmp_path: Path) -> None:
    """Once the declaration has changed, its records are read again by it, into the column of the new type."""
    lake = Lake.at(tmp_path)
    land(lake, [LONG])
    ingest_wires(lake, b'{"amount":1.5}', b'{"amount":"1.234"}')
    assert Quarantine(lake, WIRES).replay(ALL).refused == {"$.amount: expected decimal(9,2), got '\"1.234\"'": 1}
    finer = replace(WIRES, fields=(Field(name="amount", type="decimal(10,3)"),))
    assert Quarantine(lake, finer).replay(ALL).rows == 1
    assert Quarantine(lake, finer).records(ALL) == []
    rows = pl.read_delta(lake.uri("bronze", "wires")).filter(pl.col("_error").is_null())
    assert sorted(rows["amount"]) == [Decimal("1.234"), Decimal("1.500")]
    assert waiting(lake) == 1, "the card records are left alone"


def test_the_commands_go_by_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, folder = Lake.at(tmp_path / "lake"), tmp_path / "pipeline"
    folder.mkdir()
    shipped = default_folder({})
    added = "wires: {type: kafka, servers_env: W, topics: [{topic: wires, table: wires, fields: {amount: double}}]}\n"
    (folder / "sources.yml").write_text((shipped / "sources.yml").read_text() + added)
    (folder / "streams.yml").write_text((shipped / "streams.yml").read_text())
    monkeypatch.setenv("FRAUD_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("FRAUD_PIPELINE", str(folder))
    ingest_wires(lake, b"{")

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["quarantine", "list", *words])

    assert "wires/0/0" in run().output, "the only table there is"
    land(lake, [LONG])
    with pytest.raises(SettingsError, match="several topics"):
        CliRunner().invoke(app, ["quarantine", "list"], catch_exceptions=False, standalone_mode=False)
    assert "wires/0/0" in run("--table", "wires").output
    assert "t/0/0" in run("--table", "card_transactions").output
    with pytest.raises(SettingsError, match="no declared topic has the bronze table 'users'"):
        CliRunner().invoke(
            app, ["quarantine", "list", "--table", "users"], catch_exceptions=False, standalone_mode=False
        )


def test_no_lake_has_an_empty_quarantine(tmp_path: Path) -> None:
    assert Quarantine(Lake.at(tmp_path), CARDS).records(ALL) == []
    assert Quarantine(Lake.at(tmp_path), CARDS).replay(ALL).rows == 0


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, file = Lake.at(tmp_path / "lake"), tmp_path / "bad.jsonl"
    land(lake, [LONG, encode(card(1)).replace(b"82.55", b"null")])
    monkeypatch.setenv("FRAUD_LAKE", str(tmp_path / "lake"))

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["quarantine", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    listed = json.loads(run("list", "--json"))
    assert [one["error"] for one in listed] == [
        "longer than FRAUD_MAX_RECORD_BYTES: 586 bytes, at most 400 are read",
        "$.amt: expected float, got null",
    ]
    assert "t/0/1" in run("list", "--reason", "got null") and "1 shown" in run("list", "--limit", "1")
    assert render(collect(load_settings())).count("Quarantine: 2 unreadable records") == 1
    assert "1 records replayed, 1 still cannot be read\n  1: $.amt: expected float, got null" in run("replay")
    assert "1 records written" in run("export", str(file))
    file.write_text(file.read_text().replace('\\"amt\\":null', '\\"amt\\":1.5'))
    assert "1 records replayed, 0 still" in run("replay", "--from", str(file))
    assert "0 records replayed, 0 still" in run("replay", "--from", str(file))
    assert "nothing is in quarantine" in run("list")
    assert cards(lake).filter(_offset=1)["amt"].to_list() == [None, 1.5]
