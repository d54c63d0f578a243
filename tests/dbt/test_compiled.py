"""The SQL of models follows from the project alone: in two variants, full and incremental, whatever is in the lake."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.profile import write_profile
from fraud_lakehouse.transform.project import PreparedProject
from tests.dbt.small_lake import CHANGE, Row, SmallLake

AT = datetime(2026, 1, 1, tzinfo=UTC)
PAID_AT = datetime(2026, 1, 2)  # noqa: DTZ001  the source's column has no zone
PRICES = {"price": pl.Decimal(38, 9), "name": pl.String(), "body": pl.Binary(), **CHANGE}


def payment(number: int, minutes: int, partition: int = 0) -> Row:
    return {
        "trans_num": f"t{number}", "user_id": number % 3, "amt": 10.0 + number, "_topic": "t", "_partition": partition,
        "trans_date_trans_time": str(AT.replace(tzinfo=None) + timedelta(minutes=minutes)), "_offset": number,
        "_timestamp": AT + timedelta(minutes=minutes),
    }  # fmt: skip


def change(op: str, lsn: int, **values: object) -> Row:
    return {"_op": op, "_lsn": lsn, "_seq": 1, "_committed_at": AT + timedelta(seconds=lsn), **values}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    """Late rows, corrected windows, truncated and partial rows, and keys that their columns cannot hold."""
    lake = SmallLake(tmp_path_factory.mktemp("compiled") / "lake")
    prices = BronzeTable.open_or_create(lake.lake, "prices", PRICES, ["price"])
    for step in range(3):
        minutes = [0, 400, 900] if step == 0 else [30 + step, 1200 * step, 5]
        lake.land("card_transactions", [payment(10 * step + n, at, n % 2) for n, at in enumerate(minutes)])
        lake.land("users", [change("c" if step == 0 else "u", 10 * step + 1, user_id=1, name=f"n{step}")])
        paid = {"transaction_id": step, "user_id": 1, "amount": Decimal(step + 1), "transaction_date": PAID_AT}
        lake.land("transactions", [change("c", 10 * step + 2, **paid), *([change("t", 25)] if step == 2 else [])])
        rows = [
            change("c", 10 * step + 3, price=Decimal(step), name="a", body=b"x"),
            change("u", 10 * step + 4, price=Decimal(step), body=b"y", _unchanged='["name"]'),
            change("c", 10 * step + 5, price=None, name="infinite", _text='{"price": "Infinity"}'),
        ]
        prices.append(pl.DataFrame([{name: row.get(name) for name in PRICES} for row in rows], schema=PRICES), {})
        lake.build("all")
    assert lake.rows("silver", "card_transactions_late")
    assert any(row["version"] > 1 for row in lake.rows("gold", "user_trans_amt_last_360min_versions"))
    return lake


def compiled(prepared: PreparedProject, lake: Path, folder: Path, *options: str) -> dict[str, str]:
    """The SQL of each model, as `dbt compile` in a process of its own has it over a lake."""
    profiles = write_profile(load_settings(lake=str(lake), work=folder), folder)
    folders = {"--project-dir": prepared.folder, "--profiles-dir": profiles, "--target-path": folder / "target"}
    arguments = [str(part) for option in folders.items() for part in option]
    command = [sys.executable, "-m", "dbt.cli.main", "--no-send-anonymous-usage-stats", "compile", *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return {path.stem: path.read_text().strip() for path in (folder / "target" / "compiled").rglob("models/*/**/*.sql")}


@pytest.mark.parametrize("options", [(), ("--full-refresh",)], ids=["incremental", "full"])
def test_models_compile_to_the_same_sql_over_any_lake(
    lake: SmallLake, tmp_path: Path, options: tuple[str, ...]
) -> None:
    found = compiled(lake.transformer.project, lake.root, tmp_path, *options)
    models = lake.transformer.compiled.models
    assert len([model for model in models if model.name.startswith("captured_prices")]) == 2
    assert len(models) > 25
    for model in models:
        assert found[model.name] == (model.full if options else model.incremental).sql.strip(), model.name
    assert ("seen." in found["card_transactions"]) == (options == ())
    assert '"live rules of card_payments on arrival"' in found["alerts"]
    assert 'new_rows."gold.alerts <- gold.vector_firings"' in found["alerts"]
