"""Labels take the types of the source's rows or are refused by column; what a feature needs is read from its SQL."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.errors import LabelsError, TransformError
from fraud_lakehouse.features.labels import moment, read_labels, typed_labels, write_frame
from fraud_lakehouse.features.needs import columns_of
from tests.catalogues import shipped_catalogue

TYPES = {
    "user_id": pl.Int32(),
    "merchant": pl.String(),
    "amt": pl.Float64(),
    "event_time": pl.String(),
    "known_by": pl.String(),
}
NOON = datetime(2026, 1, 1, 12, 0, 0, 123456)  # noqa: DTZ001 event times have no zone


@pytest.mark.parametrize(
    "given",
    [
        NOON,
        NOON.replace(tzinfo=UTC),
        "2026-01-01 12:00:00.123456",
        "2026-01-01T13:00:00.123456+01:00",
        " 2026-01-01T12:00:00.123456Z ",
    ],
)
def test_times_in_any_form_are_utc(given: object) -> None:
    typed = typed_labels(pl.DataFrame({"event_time": [given], "known_by": [given]}), TYPES)
    assert typed.rows() == [(NOON, NOON.replace(tzinfo=UTC))]


def test_days_nulls_and_empty_texts() -> None:
    days = typed_labels(pl.DataFrame({"event_time": [date(2026, 1, 1), None]}), TYPES)
    assert days["event_time"].to_list() == [datetime(2026, 1, 1), None]  # noqa: DTZ001
    assert typed_labels(pl.DataFrame({"event_time": ["", None]}), TYPES)["event_time"].to_list() == [None, None]
    assert typed_labels(pl.DataFrame({"event_time": [None]}), TYPES)["event_time"].to_list() == [None]


def test_keys_and_amounts_take_the_sources_types() -> None:
    given = pl.DataFrame({"user_id": ["7", None], "merchant": [12, None], "amt": [1, None], "note": ["a", "b"]})
    typed = typed_labels(given, TYPES)
    assert typed.rows() == [(7, "12", 1.0), (None, None, None)]
    assert typed_labels(pl.DataFrame({"user_id": [2.0**40]}), TYPES).item() == 2**40, "no user has it: none counts"


@pytest.mark.parametrize(
    ("name", "value", "output"),
    [
        ("user_id", "x", "'x', which is not a whole number"),
        ("user_id", 1.5, "1.5, which is not a whole number"),
        ("user_id", True, "holds Boolean"),
        ("merchant", 1.5, "holds Float64"),
        ("amt", "much", "'much', which is not a number"),
        ("event_time", "yesterday", "'yesterday', which is not a time"),
        ("event_time", 5, "holds Int64"),
    ],
)
def test_another_type_is_told_by_column_and_value(name: str, value: object, output: str) -> None:
    with pytest.raises(LabelsError, match=f"column {name} holds|column {name}") as error:
        typed_labels(pl.DataFrame({name: [value, None]}), TYPES)
    assert output in str(error.value)


def test_files(tmp_path: Path) -> None:
    frame = pl.DataFrame({"trans_num": ["0012"], "user_id": [1], "event_time": ["2026-01-01 00:00:00.5"]})
    for name in ("labels.csv", "labels.parquet"):
        write_frame(frame, tmp_path / name)
        assert read_labels(tmp_path / name, ["trans_num"]).equals(frame), name
    with pytest.raises(LabelsError, match=r"neither \.csv nor"):
        write_frame(frame, tmp_path / "labels.xlsx")
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path / "absent.csv", [])
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path / "broken.parquet", [])
    with pytest.raises(LabelsError, match="cannot be written"):
        write_frame(frame, tmp_path / "no folder" / "labels.csv")


def test_moments() -> None:
    assert moment("2026-01-01T13:00:00+01:00") == moment("2026-01-01 12:00:00") == datetime(2026, 1, 1, 12, tzinfo=UTC)
    with pytest.raises(LabelsError, match="'soon' is not a moment"):
        moment("soon")


def test_needs_are_read_from_the_sql() -> None:
    assert columns_of("case when extract(hour from moment) < 6 then a.b else c + c end") == ("moment", "b", "c")
    with pytest.raises(TransformError, match="is not an SQL expression"):
        columns_of("1 +")
    catalogue = shipped_catalogue()
    found = {feature.name: catalogue.needed(feature) for feature in catalogue.of_table("card_feature_vectors")}
    assert found["user_amt_z_30d"] == {
        "needs": ["user_id", "amt"],
        "uses": ["user_amt_mean_30d", "user_amt_stddev_30d"],
        "own": ["amt"],
    }
    assert found["user_night_share_30d"]["needs"] == ["user_id"]
    assert found["merchant_fraud_risk_30d"]["needs"] == ["merchant", "category"], "it uses the category's share"
