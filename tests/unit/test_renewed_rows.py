"""A table whose rows were computed anew: who keeps its own rows reads on behind it, everyone else starts over."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from fraud_lakehouse.lake import past_log
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.transform.changes import Added, added_files
from fraud_lakehouse.transform.consumption import Consumption, Plan
from fraud_lakehouse.transform.handles import Handles

UPSTREAM, READER = ("silver", "cards"), ("gold", "features")


class Tables:
    """An upstream of numbers, and a reader of it."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake.at(root)

    def write(self, *numbers: int, mode: Literal["append", "overwrite"] = "append", renewed: bool = False) -> None:
        """Commit numbers to the upstream; `renewed`: as those there were."""
        said = [Transaction(past_log.RENEWED, self.upstream.version())] if renewed else []
        properties = CommitProperties(app_transactions=said)
        frame = pl.DataFrame({"x": numbers}, schema={"x": pl.Int64}).to_arrow()
        write_deltalake(self.lake.uri(*UPSTREAM), frame, mode=mode, commit_properties=properties)

    @property
    def upstream(self) -> DeltaTable:
        return self.lake.open(*UPSTREAM)

    def added(self, after: int) -> tuple[list[int], Added]:
        added = added_files(self.upstream, after)
        return sorted(x for file in added.files for x in pl.read_parquet(file)["x"]), added

    def plan(self, *, full_refresh: bool = False, keep_rows: bool = False) -> Plan:
        """A build of the reader, with what it reads asked for."""
        consumption = Consumption(Handles(self.lake))
        plan = consumption.plan(READER, [UPSTREAM], full_refresh=full_refresh, keep_rows=keep_rows)
        consumption.ask(plan, UPSTREAM, "features")
        return plan

    def read(self, plan: Plan) -> list[int]:
        """The numbers a build reads; commits its position."""
        numbers = sorted(x for file in plan.reads[UPSTREAM].files for x in pl.read_parquet(file)["x"])
        frame = pl.DataFrame({"x": numbers}, schema={"x": pl.Int64}).to_arrow()
        properties = CommitProperties(app_transactions=plan.transactions())
        mode: Literal["append", "overwrite"] = "append" if plan.incremental else "overwrite"
        write_deltalake(self.lake.uri(*READER), frame, mode=mode, commit_properties=properties)
        return numbers


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "lake")


def test_what_is_new_behind_rows_computed_anew_is_known(tables: Tables) -> None:
    tables.write(1)
    tables.write(2)
    tables.write(10, 20, mode="overwrite", renewed=True)
    tables.write(3)
    tables.write(10, 20, 30, mode="overwrite", renewed=True)
    tables.write(4)
    for after, numbers in ((0, [2, 3, 4]), (1, [3, 4]), (2, [3, 4]), (3, [4]), (4, [4])):
        found, added = tables.added(after)
        assert found == numbers
        assert (added.append_only, added.renewed) == (after == 4, after < 4)
    tables.write(7, mode="overwrite")
    assert tables.added(0)[1] == Added([], append_only=False)


def test_the_packed_log_knows_it_too(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_log, "KEPT", 2)
    monkeypatch.setattr(past_log, "PACK", 4)
    for number in range(3):
        tables.write(number)
    tables.write(0, 10, 20, mode="overwrite", renewed=True)
    for number in range(4, 12):
        tables.write(number)
    tables.upstream.create_checkpoint()
    for number in range(12, 15):
        tables.write(number)
    root = Path(tables.lake.uri(*UPSTREAM))
    assert past_log.trim(root) > 4 and past_log.Log.of(root).entries[0] > 3
    found, added = tables.added(0)
    assert found == [1, 2, *range(4, 15)] and added.renewed


def test_only_who_keeps_its_rows_reads_on(tables: Tables) -> None:
    tables.write(1)
    tables.read(tables.plan(keep_rows=True))
    tables.write(2)
    tables.write(10, 20, mode="overwrite", renewed=True)
    tables.write(3)
    assert tables.read(tables.plan(keep_rows=True)) == [2, 3], "2 as it was when it was new"
    assert tables.read(tables.plan(keep_rows=True)) == []
    tables.write(10, 20, 30, mode="overwrite", renewed=True)
    plan = tables.plan()
    assert not plan.incremental and tables.read(plan) == [10, 20, 30]


def is_renewed(plan: Plan) -> bool:
    return past_log.RENEWED in [transaction.app_id for transaction in plan.transactions()]


def test_a_build_of_all_rows_says_whether_they_are_those_there_were(tables: Tables) -> None:
    tables.write(1)
    assert not is_renewed(tables.plan()), "there were none"
    tables.read(tables.plan())
    assert is_renewed(tables.plan(full_refresh=True))
    assert not is_renewed(tables.plan())
    tables.write(2)
    assert not is_renewed(tables.plan(full_refresh=True)), "one is new"
    tables.read(tables.plan())
    tables.write(1, 2, mode="overwrite", renewed=True)
    assert is_renewed(tables.plan()), "its upstream's rows were computed anew, so are its own"
    tables.write(3)
    assert not is_renewed(tables.plan()), "and one is new"
    tables.read(tables.plan())
    tables.write(1, 2, 3, mode="overwrite")
    assert not is_renewed(tables.plan()), "there is no telling"
