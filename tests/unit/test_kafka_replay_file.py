"""What `replay` says about a file it cannot publish; no broker is needed to be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraud_lakehouse.demo.card_record import stable_user_id
from fraud_lakehouse.demo.replay import ReplayFileError, records, replay
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.settings import Settings
from tests.kafka_contract import SPARKOV_HEADER, sparkov_line, write_sparkov

NOWHERE = Settings(kafka_bootstrap_servers="127.0.0.1:1")


def written(folder: Path, *lines: str) -> Path:
    path = folder / "x.csv"
    path.write_text("\n".join(lines))
    return path


def test_rows_become_records(tmp_path: Path) -> None:
    found = list(records(write_sparkov(tmp_path, 3)))
    assert [record.trans_num for record in found] == [f"{number:032x}" for number in range(3)]
    assert (found[0].merchant, found[0].zipcode, found[0].amt) == ("fraud_Rippin, Kub and Mann", "28654", 4.97)
    assert found[0].user_id == stable_user_id("x", "x", "1988-03-09")


def test_column_order_does_not_matter_and_zipcode_is_taken_too(tmp_path: Path) -> None:
    header = SPARKOV_HEADER.replace(",zip,", ",zipcode,").split(",")
    line = sparkov_line(1).replace('"fraud_Rippin, Kub and Mann"', "m").split(",")
    path = written(tmp_path, ",".join(reversed(header)), ",".join(reversed(line)))
    assert next(records(path)).zipcode == "28654"


def test_user_id_is_taken_from_the_file_and_numbers_may_have_leading_zeros(tmp_path: Path) -> None:
    line = sparkov_line(1, cc_num="0060423098130")
    found = next(records(written(tmp_path, f"{SPARKOV_HEADER},user_id", f"{line},0042")))
    assert (found.cc_num, found.user_id) == (60423098130, 42)


def test_user_id_of_the_file_must_be_a_number(tmp_path: Path) -> None:
    path = written(tmp_path, f"{SPARKOV_HEADER},user_id", f"{sparkov_line(1)},ann")
    with pytest.raises(ReplayFileError, match="line 2, column user_id: expected a 64-bit integer, got 'ann'"):
        replay(NOWHERE, path)


@pytest.mark.parametrize(
    "column, value, reported",
    [
        ("amt", "abc", "line 3, column amt: expected a finite decimal number, got 'abc'"),
        ("amt", "nan", "line 3, column amt: expected a finite decimal number, got 'nan'"),
        ("amt", "", "line 3, column amt: expected a finite decimal number, got ''"),
        ("cc_num", "1.5", "line 3, column cc_num: expected a 64-bit integer, got '1.5'"),
        ("cc_num", "9223372036854775808", "line 3, column cc_num: expected a 64-bit integer"),
        ("is_fraud", "2", "line 3, column is_fraud: expected 0 or 1, got '2'"),
        ("trans_date_trans_time", "2019-02-30 00:00:00", "line 3, column trans_date_trans_time: expected a time as"),
        ("trans_date_trans_time", "2019-W01-1 00:00:00", "line 3, column trans_date_trans_time: expected a time as"),
    ],
)
def test_wrong_value_is_told_by_line_and_column(tmp_path: Path, column: str, value: str, reported: str) -> None:
    path = written(tmp_path, SPARKOV_HEADER, sparkov_line(0), sparkov_line(1, **{column: value}))
    with pytest.raises(ReplayFileError, match=reported):
        replay(NOWHERE, path)


@pytest.mark.parametrize(
    "lines, reported",
    [
        ([], "is empty"),
        (["a,b", "1,2"], "line 1: no column trans_date_trans_time, .*, zip; found: a, b"),
        ([SPARKOV_HEADER, "1,2"], "line 2: 2 fields where the header has 23"),
        ([SPARKOV_HEADER, '"a"b,c'], "line 2: not CSV"),
        ([SPARKOV_HEADER, sparkov_line(0), '"open'], "near line 3: not CSV"),
    ],
)
def test_what_is_no_sparkov_file(tmp_path: Path, lines: list[str], reported: str) -> None:
    with pytest.raises(ReplayFileError, match=reported):
        replay(NOWHERE, written(tmp_path, *lines))


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ReplayFileError, match=r"nope\.csv: No such file"):
        replay(NOWHERE, tmp_path / "nope.csv")
    with pytest.raises(ReplayFileError, match="Is a directory"):
        replay(NOWHERE, tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReplayFileError, match="near line 1: not CSV in UTF-8"):
        replay(NOWHERE, tmp_path / "binary.csv")


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_rate_must_be_above_zero(tmp_path: Path, rate: float) -> None:
    with pytest.raises(LakehouseError, match="--rate"):
        replay(NOWHERE, write_sparkov(tmp_path, 1), rate=rate)
