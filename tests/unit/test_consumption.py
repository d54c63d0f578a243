"""What a build's commit has said is known without asking the log, and is never taken for what another commit said."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, Transaction

from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.consumption import Consumption, Plan, app_id
from fraud_lakehouse.transform.table_cache import TableCache
from tests.numbered import commit

UPSTREAM, READER = ("silver", "cards"), ("gold", "features")


class Reader:
    """A model's builds over an upstream, in one process."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake.at(root)
        self.consumption = Consumption(TableCache(self.lake))

    def write(self, table: tuple[str, str], recorded: list[Transaction]) -> int:
        """Commit a row; the version."""
        commit(self.lake.uri(*table), pl.DataFrame({"x": [1]}), transactions=recorded)
        return self.lake.open(*table).version()

    def plan(self) -> Plan:
        plan = self.consumption.plan(READER, [UPSTREAM], full_refresh=False, keep_rows=False)
        self.consumption.request(plan, UPSTREAM)
        return plan

    def build(self, *, rival: int | None = None) -> None:
        """A build; `rival`: the position that another process commits after it, before it is done."""
        plan = self.plan()
        before = plan.target.version() if plan.target is not None else -1
        version = self.write(READER, plan.transactions())
        if rival is not None:
            table = self.lake.open(*UPSTREAM)
            version = self.write(READER, [Transaction(app_id(UPSTREAM, one), rival) for one in (None, table)])
        self.consumption.record(plan, before, version)

    def position(self) -> int | None:
        return self.consumption.committed(self.plan(), UPSTREAM)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    reader = Reader(tmp_path)
    for _ in range(2):
        reader.write(UPSTREAM, [])
    reader.build()
    return reader


def test_the_log_is_not_asked_for_what_a_commit_said(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader.position() == 2
    reader.write(UPSTREAM, [])

    def refuse(table: DeltaTable, name: str) -> int | None:
        assert name.startswith("fraud_lakehouse:"), name
        return request(table, name)

    request = DeltaTable.transaction_version

    reader.plan()
    with monkeypatch.context() as patched:
        patched.setattr(DeltaTable, "transaction_version", refuse)
        reader.build()
        assert reader.position() == 3


def test_what_another_commit_said_is_read_from_the_log(reader: Reader) -> None:
    reader.write(UPSTREAM, [])
    reader.build(rival=0)
    assert reader.position() == 0
    reader.build()
    assert reader.position() == 3
    reader.write(READER, [Transaction(app_id(UPSTREAM, reader.lake.open(*UPSTREAM)), 1)])
    assert reader.position() == 1
