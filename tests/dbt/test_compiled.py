"""The SQL of models follows from the project alone: in two variants, full and incremental, whatever is in the lake."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.lake.bronze import BronzeTable
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform import plugin
from fraud_lakehouse.transform.project import PreparedProject, dbt_arguments, prepare_project, write_profile
from tests.dbt.small_lake import CHANGE, Row, SmallLake

AT = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = {"price": pl.Decimal(38, 9), "name": pl.String(), "body": pl.Binary(), **CHANGE}


def payment(number: int, minutes: int, partition: int = 0) -> Row:
    return {
        "trans_num": f"t{number}", "user_id": number % 3, "amt": 10.0 + number, "_topic": "card",
        "trans_date_trans_time": str(AT.replace(tzinfo=None) + timedelta(minutes=minutes)),
        "_partition": partition, "_offset": number, "_timestamp": AT + timedelta(minutes=minutes),
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
        paid = {
            "transaction_id": step,
            "user_id": 1,
            "amount": Decimal(step + 1),
            "transaction_date": AT.replace(tzinfo=None),
        }
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
    """The SQL of everything that a project has to run, by file, as a process of its own compiles it over a lake."""
    profiles = write_profile(load_settings(lake=str(lake), work=folder), folder)
    arguments = dbt_arguments(prepared, profiles, folder / "target")
    command = [sys.executable, "-m", "dbt.cli.main", "--no-send-anonymous-usage-stats", "compile", *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    root = folder / "target" / "compiled"
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.sql")}


@pytest.fixture(scope="module")
def variants(lake: SmallLake, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Both variants, each over the lake and over none."""
    prepared, folder = prepare_project(lake.settings), tmp_path_factory.mktemp("variants")
    lakes, options = (lake.root, folder / "none"), {"incremental": [], "full": ["--full-refresh"]}
    return {
        name: [compiled(prepared, root, folder / f"{name}{number}", *given) for number, root in enumerate(lakes)]
        for name, given in options.items()
    }


@pytest.mark.parametrize("variant", ["incremental", "full"])
def test_models_compile_to_the_same_sql_over_any_lake(variants: dict[str, list[dict[str, str]]], variant: str) -> None:
    filled, none = variants[variant]
    assert filled == none
    models = {Path(path).stem: sql for path, sql in filled.items() if "/models/" in path}
    assert len([name for name in models if name.startswith("captured_prices")]) == 2
    assert ("seen." in models["card_transactions"]) == (variant == "incremental")
    assert 'new_rows."gold.alerts through rule_velocity <- gold.card_transaction_features"' in models["rule_velocity"]


@pytest.mark.parametrize("full_refresh", [False, True])
def test_what_a_build_runs_is_one_of_the_two_variants(
    lake: SmallLake, variants: dict[str, list[dict[str, str]]], full_refresh: bool
) -> None:
    plugin.calls.clear()
    lake.build("all", full_refresh=full_refresh)
    written = [call.arguments for call in plugin.calls if call.operation == "write"]
    assert len(written) > 20
    for call in written:
        name = call["model"].split(".")[-1]
        wanted = [sql.strip() for one, _ in variants.values() for path, sql in one.items() if Path(path).stem == name]
        assert call["sql"].strip() in wanted, name
