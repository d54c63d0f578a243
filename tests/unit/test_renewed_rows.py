"""A table whose rows were computed anew: who keeps its own rows goes on behind them, everyone else starts over."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.storage.commit_numbers import Commits, commits_of
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.consumption import Consumption, Plan
from fraud_lakehouse.transform.table_cache import TableCache
from tests.numbered import commit

UPSTREAM, READER = ("silver", "cards"), ("gold", "features")


class Tables:
    """An upstream of numbers, and a reader of it."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake.at(root)

    def write(self, *numbers: int, mode: Literal["append", "overwrite"] = "append", renewed: bool = False) -> None:
        """Commit numbers to the upstream; `renewed`: as those there were."""
        frame = pl.DataFrame({"x": numbers}, schema={"x": pl.Int64})
        commit(self.lake.uri(*UPSTREAM), frame, mode, same_rows=renewed)

    @property
    def upstream(self) -> DeltaTable:
        return self.lake.open(*UPSTREAM)

    def plan(self, *, full_refresh: bool = False, keep_rows: bool = False) -> Plan:
        """A build of the reader, with what it reads asked for."""
        consumption = Consumption(TableCache(self.lake))
        plan = consumption.plan(READER, [UPSTREAM], full_refresh=full_refresh, keep_rows=keep_rows)
        consumption.request(plan, UPSTREAM)
        return plan

    def read(self, plan: Plan) -> list[int]:
        """The numbers a build reads; commits its position."""
        read = plan.reads[UPSTREAM]
        numbers = sorted(read.rows.scan(read.table).collect()["x"].to_list())
        frame = pl.DataFrame({"x": numbers}, schema={"x": pl.Int64})
        mode: Literal["append", "overwrite"] = "append" if plan.incremental else "overwrite"
        commit(self.lake.uri(*READER), frame, mode, transactions=plan.transactions())
        return numbers


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "lake")


def test_where_readers_go_on_behind_rows_computed_anew(tables: Tables) -> None:
    tables.write(1)
    tables.write(2)
    tables.write(10, 20, mode="overwrite", renewed=True)
    assert commits_of(tables.upstream) == Commits(newest=3, rewritten=3, same_rows_since=2)
    tables.write(100, 200, mode="overwrite", renewed=True)
    commits = commits_of(tables.upstream)
    assert commits == Commits(newest=4, rewritten=4, same_rows_since=2), "the same rows once more"
    assert [commits.position_of(after, keeps_rows=True) for after in (-1, 0, 1, 2, 3, 4)] == [-1, None, None, 4, 4, 4]
    assert [commits.position_of(after, keeps_rows=False) for after in (-1, 2, 3, 4)] == [-1, None, None, 4]
    tables.write(3)
    tables.write(100, 200, 300, mode="overwrite", renewed=True)
    assert commits_of(tables.upstream) == Commits(newest=6, rewritten=6, same_rows_since=5)
    tables.write(7, mode="overwrite")
    commits = commits_of(tables.upstream)
    assert commits == Commits(newest=7, rewritten=7, same_rows_since=7)
    assert commits.position_of(6, keeps_rows=True) is None


def test_only_who_keeps_its_rows_reads_on(tables: Tables) -> None:
    tables.write(1)
    tables.read(tables.plan(keep_rows=True))
    tables.write(10, mode="overwrite", renewed=True)
    tables.write(3)
    assert tables.read(tables.plan(keep_rows=True)) == [3]
    assert tables.read(tables.plan(keep_rows=True)) == []
    tables.write(10, 30, mode="overwrite", renewed=True)
    plan = tables.plan()
    assert not plan.incremental and tables.read(plan) == [10, 30]


def test_who_lacks_some_of_the_rows_that_were_computed_anew_reads_all_again(tables: Tables) -> None:
    tables.write(1)
    tables.read(tables.plan(keep_rows=True))
    tables.write(2)
    tables.write(10, 20, mode="overwrite", renewed=True)
    tables.write(3)
    assert tables.read(tables.plan(keep_rows=True)) == [3, 10, 20]


def is_renewed(plan: Plan) -> bool:
    """Whether a commit of all rows says that they are those there were."""
    after = plan.after(rewrites=True)
    return not plan.incremental and after.same_rows_since < after.newest


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
