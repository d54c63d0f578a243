"""A lake for the oracle tests of the dbt models: land events, build lanes, read tables. Knows no expected result."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.idle_partitions import TABLE as OBSERVATIONS
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import LAYERS, Lake
from fraud_lakehouse.storage.schemas import COMMIT, IDLE_PARTITIONS
from fraud_lakehouse.transform.build_result import BuildResult
from fraud_lakehouse.transform.project import shipped_project
from fraud_lakehouse.transform.runner import Transformer
from tests.declared import bank_and_cards

Row = dict[str, Any]

CHANGE: dict[str, pl.DataType] = {
    "_op": pl.String(),
    "_lsn": pl.Int64(),
    "_seq": pl.Int64(),
    "_committed_at": pl.Datetime("us", "UTC"),
    "_unchanged": pl.String(),
    "_text": pl.String(),
}
SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    "users": {
        "user_id": pl.Int32(),
        "name": pl.String(),
        "email": pl.String(),
        "registration_date": pl.Datetime("us"),
        **CHANGE,
    },
    "transactions": {
        "transaction_id": pl.Int32(),
        "user_id": pl.Int32(),
        "transaction_date": pl.Datetime("us"),
        "amount": pl.Decimal(10, 2),
        **CHANGE,
    },
    "card_transactions": {
        "trans_date_trans_time": pl.String(),
        "cc_num": pl.Int64(),
        "merchant": pl.String(),
        "category": pl.String(),
        "amt": pl.Float64(),
        "first": pl.String(),
        "last": pl.String(),
        "zipcode": pl.String(),
        "dob": pl.String(),
        "trans_num": pl.String(),
        "is_fraud": pl.Int64(),
        "user_id": pl.Int64(),
        "_topic": pl.String(),
        "_partition": pl.Int32(),
        "_offset": pl.Int64(),
        "_timestamp": pl.Datetime("us", "UTC"),
        "_raw": pl.Binary(),
        "_error": pl.String(),
    },
}
KEYS = {"users": ["user_id"], "transactions": ["transaction_id"], "card_transactions": []}


def copied_project(folder: Path) -> Path:
    """A copy of the shipped project with a pipeline folder of its own, to be changed."""
    ignored = shutil.ignore_patterns("target", "logs")
    project = Path(shutil.copytree(shipped_project(), folder / "project", ignore=ignored))
    shutil.copytree(bank_and_cards(), project / "pipeline")
    return project


class SmallLake:
    """One folder, emptied between examples, so that the dbt project over it is parsed once."""

    def __init__(self, root: Path, shipped: Path | None = None, **settings: Any) -> None:
        self.lake = Lake.at(root)
        self.root = root
        self.late_rows = settings.get("late_rows", "drop")
        self.settings = load_settings(lake=str(root), work=root.parent / f"{root.name}-work", **settings)
        self.transformer = Transformer(self.settings, shipped)

    def clear(self) -> None:
        for layer in LAYERS:
            shutil.rmtree(self.root / layer, ignore_errors=True)

    def land(self, table: str, rows: list[Row], schema: dict[str, pl.DataType] | None = None) -> None:
        """One commit of bronze rows; columns that a row lacks are null."""
        schema = schema or SCHEMAS[table]
        frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
        BronzeTable.open_or_create(self.lake, table, schema, KEYS.get(table, [])).append(frame, {})

    def observe(self, at: datetime, partitions: int = 1) -> None:
        """One commit that says that the topic had nothing more at this moment (UTC)."""
        row = {"source": "kafka", "topic": "transaction", "observed_at": at}
        frame = pl.DataFrame([row | {"partition": number} for number in range(partitions)], schema=IDLE_PARTITIONS)
        Appender.open(self.lake, *OBSERVATIONS, IDLE_PARTITIONS).append(frame, {})

    def build(self, tier: str, *, full_refresh: bool = False) -> BuildResult:
        self.transformer.reload()  # as each cycle does
        return self._checked(self.transformer.build_tier(tier, full_refresh=full_refresh))

    def build_only(self, *models: str, full_refresh: bool = False) -> BuildResult:
        """These models, with their tests; the rest of a lane would take seconds."""
        self.transformer.reload()
        return self._checked(self.transformer.build(models, full_refresh=full_refresh))

    def _checked(self, result: BuildResult) -> BuildResult:
        result.raise_for_errors()
        broken = [f"{node.name}: {node.message}" for node in result.failed]
        assert not broken, broken
        return result

    def rows(self, layer: str, table: str) -> list[Row]:
        return pl.read_delta(str(self.root / layer / table)).to_dicts()


def by(rows: list[Row], *key: str) -> dict[tuple[Any, ...], Row]:
    """The rows by key, which must be unique."""
    found = {tuple(row[name] for name in key): row for row in rows}
    assert len(found) == len(rows), f"{key} is not unique"
    return found


def assert_same(actual: list[Row], expected: list[Row], *key: str) -> None:
    """Equal rows for equal keys, on the columns of the expected rows; floats to 1e-9 of their size.

    The numbers of the commits that wrote them do not count: they depend on the builds.
    """
    ours, theirs = by(actual, *key), by(expected, *key)
    assert ours.keys() == theirs.keys(), (
        f"missing {list(theirs.keys() - ours.keys())[:5]}, too many {list(ours.keys() - theirs.keys())[:5]}"
    )
    for found, wanted in theirs.items():
        for name, value in ((name, value) for name, value in wanted.items() if name != COMMIT):
            assert _is_same(ours[found][name], value), f"{found}.{name}: {ours[found][name]!r}, not {value!r}"


def _is_same(actual: Any, expected: Any) -> bool:
    if isinstance(actual, float) and expected is not None:
        return abs(actual - float(expected)) <= 1e-9 * max(1.0, abs(actual))
    return bool(actual == expected)
