"""The `delta` materialization on a five-model project: what is read, what is committed, what survives."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse import failpoints
from fraud_lakehouse.errors import ConcurrentWriterError, TransformError
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.commit_numbers import commits_of
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform import writer
from fraud_lakehouse.transform.build_result import BuildResult
from fraud_lakehouse.transform.consumption import Consumption, app_id
from fraud_lakehouse.transform.handles import Handles
from fraud_lakehouse.transform.project import shipped_project
from fraud_lakehouse.transform.runner import Transformer

MINI = Path(__file__).parent / "mini_project"


@pytest.fixture(scope="session")
def mini_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project with the product's own delta macros."""
    folder = tmp_path_factory.mktemp("mini") / "project"
    shutil.copytree(MINI, folder)
    shutil.copytree(shipped_project() / "macros" / "delta", folder / "macros" / "delta")
    return folder


@dataclass
class Mini:
    """A lake with the small project over it."""

    root: Path
    project: Path

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """What another process would start with."""
        self.transformer = Transformer(load_settings(lake=str(self.root)), self.project)

    def add(self, first: int, last: int) -> None:
        """Land events with ids first..last-1 and amount = id."""
        ids = list(range(first, last))
        frame = pl.DataFrame(
            {"id": ids, "amount": [float(i) for i in ids]}, schema={"id": pl.Int64, "amount": pl.Float64}
        )
        Appender.open(Lake.at(self.root), "bronze", "events", frame.schema).append(frame, {})

    def build(self, lane: str = "all", *, full_refresh: bool = False) -> BuildResult:
        """Build a lane; every model must succeed."""
        result = self.transformer.build_lane(lane, full_refresh=full_refresh)
        result.raise_for_errors()
        return result

    def table(self, layer: str, name: str) -> pl.DataFrame:
        """A table's rows."""
        return pl.read_delta(str(self.root / layer / name))

    def handle(self, layer: str, name: str) -> DeltaTable:
        """The newest version of a table."""
        return DeltaTable(str(self.root / layer / name))

    def ids(self, layer: str, name: str) -> list[int]:
        """Sorted ids of a table."""
        return sorted(self.table(layer, name)["id"].to_list())


@pytest.fixture
def mini(tmp_path: Path, mini_project: Path) -> Iterator[Mini]:
    lake = Mini(tmp_path / "lake", mini_project)
    yield lake
    lake.transformer.close()


def test_empty_lake_builds_empty_tables_with_their_schema(mini: Mini) -> None:
    mini.build()
    assert mini.table("gold", "alerts").schema == {
        "id": pl.Int64,
        "fired_at": pl.Datetime("us", "UTC"),
        "_commit": pl.Int64,
    }
    assert mini.table("gold", "alerts").height == 0


def test_each_build_reads_only_new_rows(mini: Mini) -> None:
    mini.add(0, 50)
    mini.build()
    mini.add(40, 120)  # 40..49 again: the model drops what it has
    second = mini.build()
    assert second.rows("cards") == 70
    assert second.rows("features") == 70
    assert mini.ids("gold", "features") == list(range(120))
    assert mini.ids("gold", "alerts") == list(range(101, 120))


def test_nothing_new_commits_nothing(mini: Mini) -> None:
    mini.add(0, 5)
    mini.build()
    versions = {
        name: DeltaTable(str(mini.root / "gold" / name)).version() for name in ("features", "latest", "average")
    }
    again = mini.build()
    assert all(node.version is None for node in again.nodes)
    assert versions == {name: DeltaTable(str(mini.root / "gold" / name)).version() for name in versions}


def test_positions_are_committed_alone_once_they_lie_far_behind_and_the_log_stays_short(
    tmp_path: Path, mini_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud_lakehouse.transform.executor.MOST_EMPTY_BUILDS", 3)
    monkeypatch.setattr("fraud_lakehouse.storage.housekeeping.CHECKPOINT_INTERVAL", 2)
    project = Path(shutil.copytree(mini_project, tmp_path / "project"))
    (project / "models" / "gold" / "large.sql").write_text(
        "{{ config(strategy='append') }}"
        " select id from {{ new_rows(ref('cards')) }} where amount > 1000"
        " union all select id from {{ new_rows(source('bronze', 'absent')) }} where amount > 1000"
    )
    mini = Mini(tmp_path / "lake", project)
    mini.add(0, 1)
    write_deltalake(str(mini.root / "bronze/absent"), pl.DataFrame({"id": [0], "amount": [0.0]}).to_arrow())
    mini.build()
    log = mini.root / "gold" / "large" / "_delta_log"
    began = DeltaTable(str(log.parent)).version()
    versions = []
    for event in range(1, 13):
        mini.add(event, event + 1)
        mini.build()
        versions.append(DeltaTable(str(log.parent)).version() - began)
    assert versions == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3], "also beside an upstream that stays where it is"
    assert list(log.glob("*.checkpoint.parquet"))
    mini.transformer.close()


def test_compaction_is_not_new_data(mini: Mini) -> None:
    mini.add(0, 5)
    mini.add(5, 10)
    mini.build()
    DeltaTable(str(mini.root / "bronze/events")).optimize.compact()
    DeltaTable(str(mini.root / "silver/cards")).optimize.compact()
    mini.add(10, 12)
    assert mini.build().rows("features") == 2
    assert mini.ids("gold", "features") == list(range(12))


def test_a_crash_between_two_models_is_caught_up_by_another_process(mini: Mini) -> None:
    mini.add(0, 200)
    mini.build()
    mini.add(200, 210)
    mini.transformer.build(["cards"])  # the process dies here
    mini.restart()
    assert mini.build().rows("features") == 10
    assert mini.ids("gold", "features") == list(range(210))
    assert mini.ids("gold", "alerts") == list(range(101, 210))


def test_rebuilt_upstream_rebuilds_its_readers_but_alerts_stay(mini: Mini) -> None:
    mini.add(0, 120)
    mini.build()
    fired = mini.table("gold", "alerts").sort("id")
    shutil.rmtree(mini.root / "silver")
    mini.restart()
    mini.build()
    assert mini.ids("gold", "features") == list(range(120))
    assert mini.table("gold", "alerts").sort("id").equals(fired)


def test_full_refresh_gives_the_same_and_keeps_alerts(mini: Mini) -> None:
    mini.add(0, 110)
    mini.build()
    fired = mini.table("gold", "alerts").sort("id")
    mini.build(full_refresh=True)
    assert mini.ids("gold", "features") == list(range(110))
    assert mini.table("gold", "alerts").sort("id").equals(fired)


def latest(mini: Mini) -> dict[int | None, float]:
    """Amount by bucket."""
    return dict(mini.table("gold", "latest").sort("bucket").select("bucket", "amount").iter_rows())


def test_merge_updates_inserts_and_deletes_by_key(mini: Mini) -> None:
    mini.add(0, 3)
    mini.build()
    assert latest(mini) == {0: 0.0, 1: 1.0, 2: 2.0}
    mini.add(6, 9)
    mini.build()
    assert latest(mini) == {
        0: 0.0,
        1: 6.0,
        2: 7.0,
        3: 8.0,
    }
    mini.add(1001, 1002)  # > 1000 deletes its bucket
    mini.build()
    assert latest(mini) == {0: 0.0, 2: 7.0, 3: 8.0}


def fail() -> None:
    """A process that dies here, as far as the lake can tell."""
    raise RuntimeError("killed")


def commits_behind(mini: Mini, last: int) -> None:
    """Three new ids a commit of cards, up to `last`, which only cards is built from."""
    for first in range(3, last, 3):
        mini.add(first, first + 3)
        mini.transformer.build(["cards"], tests=False).raise_for_errors()


@pytest.mark.parametrize("killed", [0, 1, 3])
def test_a_merge_that_is_far_behind_goes_on_in_parts(mini: Mini, monkeypatch: pytest.MonkeyPatch, killed: int) -> None:
    monkeypatch.setattr("fraud_lakehouse.transform.executor.MOST_MERGED_ROWS", 7)
    mini.add(0, 3)
    mini.build()
    commits_behind(mini, 30)
    began = commits_of(mini.handle("gold", "latest"))
    if killed:
        failpoints.arm("model.latest.after_commit", hits=killed, action=fail)
        with pytest.raises(TransformError, match="killed"):
            mini.build()
        failpoints.disarm()
        mini.restart()
    mini.build()
    assert latest(mini) == {0: 25.0, 1: 26.0, 2: 27.0, 3: 28.0, None: 29.0}
    table, read = mini.handle("gold", "latest"), mini.handle("silver", "cards")
    assert commits_of(table).newest == began.newest + 5, "nine commits of three rows each, two at a time"
    assert table.transaction_version(app_id(("silver", "cards"), read)) == commits_of(read).newest == 10
    assert mini.build().rows("latest") == 0


def test_merge_finds_the_row_whose_key_is_null(mini: Mini) -> None:
    mini.add(3, 5)  # 4 has no bucket
    mini.build()
    mini.add(8, 10)
    mini.build()
    assert mini.table("gold", "latest").sort("amount").drop("_commit").rows() == [(3, 8.0), (None, 9.0)]


def test_a_model_that_disagrees_with_its_declaration_fails_by_name(
    mini: Mini, mini_project: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(mini_project, broken)
    (broken / "models/gold/average.sql").write_text("select avg(amount) as mean from {{ ref('latest') }}")
    transformer = Transformer(load_settings(lake=str(mini.root)), broken)
    with pytest.raises(TransformError, match=r"average.*undeclared columns \['mean'\]"):
        transformer.build_lane("all").raise_for_errors()
    transformer.close()


def test_a_rival_build_of_the_same_model_is_refused(mini: Mini) -> None:
    mini.add(0, 5)
    mini.build()
    mini.add(5, 8)
    mini.transformer.build(["cards"])
    lake, key = Lake.at(mini.root), ("gold", "features")
    plans = [
        Consumption(Handles(lake)).plan(key, [("silver", "cards")], full_refresh=False, keep_rows=False)
        for _ in range(2)
    ]
    rows = pa.table({"id": [7], "half": [3.5], "amount": [7.0]})
    for plan in plans:
        Consumption(Handles(lake)).ask(plan, ("silver", "cards"))
    assert writer.append(lake, plans[0], rows.to_reader()) is not None
    with pytest.raises(ConcurrentWriterError, match="another process"):
        writer.append(lake, plans[1], rows.to_reader())


def test_of_two_that_make_a_table_one_is_refused_and_leaves_nothing(mini: Mini) -> None:
    mini.add(0, 5)
    lake, key = Lake.at(mini.root), ("silver", "made")
    plans = [
        Consumption(Handles(lake)).plan(key, [("bronze", "cards")], full_refresh=False, keep_rows=False)
        for _ in range(2)
    ]
    made = writer.overwrite(lake, plans[0], pa.table({"id": [7]}).to_reader())
    assert (made.rows, made.version) == (1, 0)
    with pytest.raises(ConcurrentWriterError, match="silver/made was built by another process"):
        writer.overwrite(lake, plans[1], pa.table({"id": [8]}).to_reader())
    assert pl.read_delta(str(mini.root / "silver/made"))["id"].to_list() == [7]
    assert len(list((mini.root / "silver/made").glob("*.parquet"))) == 1


def test_every_version_opens_in_other_readers(mini: Mini) -> None:
    for first in (0, 10, 20):
        mini.add(first, first + 10)
        mini.build()
    path = str(mini.root / "gold/features")
    counts = []
    for version in range(DeltaTable(path).version() + 1):
        files = DeltaTable(path, version=version).file_uris()
        seen = duckdb.connect().execute("select count(*) from read_parquet(?)", [files]).fetchall()[0][0]
        assert seen == pl.read_delta(path, version=version).height
        counts.append(seen)
    assert counts == [10, 20, 30], "a new table has its rows from its first version on"


def test_documentation_is_one_page_with_the_tables_columns(mini: Mini, tmp_path: Path) -> None:
    mini.add(0, 5)
    mini.build()
    page = mini.transformer.documentation(tmp_path / "docs").read_text()
    assert "<html" in page
    assert "model.fraud_lakehouse.features" in page


@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(0, 130), max_size=4))
def test_any_split_into_batches_gives_the_same_tables(mini_project: Path, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 130]
    with tempfile.TemporaryDirectory() as folder:
        mini = Mini(Path(folder) / "lake", mini_project)
        for first, last in pairwise(edges):
            mini.add(first, last)
            mini.build()
        assert mini.ids("gold", "features") == list(range(130))
        assert mini.ids("gold", "alerts") == list(range(101, 130))
        assert mini.table("gold", "average")["amount"].to_list() == [127.0]
        mini.transformer.close()


def test_a_table_that_another_process_makes_at_the_same_time_is_built_from_its_state(
    mini: Mini, mini_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini.add(0, 120)
    other = Transformer(load_settings(lake=str(mini.root)), mini_project)
    overwrite, rivals = writer.overwrite, iter([other])

    def late(lake: Lake, *arguments: Any) -> writer.Commit:
        for rival in rivals:
            rival.build_lane("all").raise_for_errors()
        return overwrite(lake, *arguments)

    monkeypatch.setattr(writer, "overwrite", late)
    mini.build()
    other.close()
    assert mini.ids("gold", "features") == list(range(120))
    assert mini.ids("gold", "alerts") == list(range(101, 120))
