"""features_as_of in a data scientist's own model, and the command: both give what the function gives."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from fraud_lakehouse.cli import app
from fraud_lakehouse.detection import as_of
from fraud_lakehouse.errors import LabelsError
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.project import shipped_project
from fraud_lakehouse.transform.runner import Transformer
from tests.dbt.small_lake import Row, SmallLake
from tests.dbt.test_as_of_replay import KEYS, labels_of, payments

LABELS = """
select 'first' as note, 1 as user_id, 'one' as merchant, 12.5 as amt, timestamp '2024-03-01 06:00:00' as event_time
union all
select 'second', 2, null, null, timestamp '2024-03-01 05:30:00'
union all
select 'third', 1, 'two', 1.0, null
"""
DECLARED = """
models:
  - name: my_labels
    columns:
      - {name: note, data_type: varchar}
      - {name: user_id, data_type: bigint}
      - {name: merchant, data_type: varchar}
      - {name: amt, data_type: double}
      - {name: event_time, data_type: timestamp}
"""
TRAINING_SET = """
select * from {{ features_as_of(ref('my_labels'), 'cards') }}
"""


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    lake = SmallLake(tmp_path_factory.mktemp("models") / "lake")
    lake.transformer.close()
    project = tmp_path_factory.mktemp("project") / "dbt_project"
    shutil.copytree(shipped_project(), project)
    (project / "models" / "gold" / "my_labels.sql").write_text(LABELS)
    (project / "models" / "gold" / "my_labels.yml").write_text(DECLARED)
    (project / "models" / "gold" / "training_set.sql").write_text(TRAINING_SET)
    lake.transformer = Transformer(lake.settings, shipped=project)
    return lake


def land(lake: SmallLake) -> list[Row]:
    rows = payments(1)
    lake.land("card_transactions", rows)
    models = ["card_transactions", "card_transactions_late"]
    lake.transformer.build(models, tests=False).raise_for_errors()
    return rows


def test_a_model_over_labels(lake: SmallLake) -> None:
    land(lake)
    lake.transformer.build(["my_labels", "training_set"], tests=False).raise_for_errors()
    labels = pl.read_delta(lake.lake.uri("gold", "my_labels")).drop("_commit")
    expected = as_of(labels, settings=lake.settings, transformer=lake.transformer).sort("note")
    found = pl.read_delta(lake.lake.uri("gold", "training_set")).drop("_commit").sort("note")

    assert found.columns == expected.columns
    assert found.rows() == expected.rows()
    assert found["user_amt_count_24h"].to_list()[2] is None, "no time"
    assert found["user_merchant_amt_count_24h"].to_list()[1] is None, "no merchant"
    assert found["user_amt_count_24h"].to_list()[0] > 0
    assert "card_amt_sum_1h" not in found.columns, "the labels have no cc_num"
    assert "category_amt_sum_1h" not in found.columns


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_a_file_and_nothing_else(
    lake: SmallLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = land(lake)
    monkeypatch.setenv("FRAUD_LAKE", str(lake.root))
    before = files(lake.root)
    labels = labels_of(rows).drop("trans_num").with_columns(note=pl.lit("007"))
    labels.write_csv(tmp_path / "labels.csv")
    for ending in ("csv", "parquet"):
        out = tmp_path / f"out.{ending}"
        command = [
            "features",
            "as-of",
            str(tmp_path / "labels.csv"),
            "--features",
            "user_amt_count_1h",
            "--out",
            str(out),
        ]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert f"{len(rows)} labels with 1 features" in result.output
        reported = pl.read_csv(out) if ending == "csv" else pl.read_parquet(out)
        assert reported.columns == [*labels.columns, "user_amt_count_1h"]
        expected = as_of(labels, features=["user_amt_count_1h"], settings=lake.settings, transformer=lake.transformer)
        assert reported["user_amt_count_1h"].to_list() == expected["user_amt_count_1h"].to_list()
    assert files(lake.root) == before, "the lake is only read"


def test_the_list_has_every_feature() -> None:
    result = CliRunner().invoke(app, ["features", "list", "--source", "bank"], catch_exceptions=False)
    assert "user_amount_to_mean_30d" in result.output
    assert "merchant" not in result.output.split("\n")[1]


def test_what_is_wrong_is_named(lake: SmallLake) -> None:
    land(lake)
    good = pl.DataFrame({"user_id": [1], "event_time": [datetime(2024, 3, 1)]})  # noqa: DTZ001

    def refused(labels: pl.DataFrame, match: str, source: str = "cards", **options: list[str]) -> None:
        with pytest.raises(LabelsError, match=match):
            as_of(labels, source, settings=lake.settings, transformer=lake.transformer, **options)  # type: ignore[arg-type]

    refused(good, "there is no stream 'credit'", "credit")
    refused(good, "there is no feature 'user_amt_cont_1h'(?s:.*)user_amt_count_1h", features=["user_amt_cont_1h"])
    refused(good, "feature merchant_amt_sum_1h needs the label columns merchant", features=["merchant_amt_sum_1h"])
    refused(good, "user_amt_to_mean_30d needs the label columns amt", features=["user_amt_to_mean_30d"])
    refused(good.drop("event_time"), "no column event_time")
    refused(good.drop("user_id"), "contain no entity's key")
    refused(good.with_columns(user_amt_sum_1h=1.0), "a column user_amt_sum_1h, a feature's name")
    refused(good.with_columns(user_id=pl.lit("x")), "column user_id holds 'x', which is not a whole number")
    refused(good.with_columns(user_id=pl.lit(1.5)), "column user_id holds 1.5")
    refused(good.with_columns(event_time=pl.lit("yesterday")), "column event_time holds 'yesterday'")
    refused(good.with_columns(event_time=pl.lit(1)), "column event_time holds Int32")
    assert set(KEYS) > {"user_id", "amt"}


def test_no_lake_is_told(tmp_path: Path, lake: SmallLake) -> None:
    from fraud_lakehouse.errors import LakeError

    labels = pl.DataFrame({"user_id": [1], "event_time": ["2024-03-01T00:00:00+01:00"]})
    with pytest.raises(LakeError, match="no Delta table silver/card_transactions"):
        as_of(labels, settings=load_settings(lake=str(tmp_path)), transformer=lake.transformer)
