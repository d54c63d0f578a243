"""The cycle and its intervals over scripted sources and models: what is told, and when the sources are drained."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.errors import SourceError, TransformError
from fraud_lakehouse.ingest import Ingested, Waiting
from fraud_lakehouse.live import cycle as cycle_module
from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.live.cycle import Cycle
from fraud_lakehouse.live.intervals import Intervals
from fraud_lakehouse.live.scoring import Scoring
from fraud_lakehouse.live.source import Source
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import scan
from fraud_lakehouse.storage.schemas import with_ingestion
from fraud_lakehouse.transform.build_result import BuildResult, NodeResult
from tests.definitions.stand import ingested
from tests.source_double import SourceDouble

BATCH = 10


class ScriptedModels:
    """The lanes built, each with the message that `broken` has for it as a failing model."""

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def mistakes(self) -> dict[str, str]:
        return {}

    def follow(self) -> bool:
        """No change."""
        return False

    def build_tier(self, tier: str, *, without: Collection[str] = ()) -> BuildResult:
        """A model named like the lane, which reads `transactions`, and one of the other source that always works."""
        self.asked.append(tier)
        status = "error" if tier in self.broken else "success"
        node = NodeResult(f"model.x.{tier}", tier, "model", status, 0.1, message=self.broken.get(tier, ""))
        if status == "error":
            node = replace(node, sources=("transactions",))
        other = NodeResult(f"model.x.cards_{tier}", f"cards_{tier}", "model", "success", 0.1, rows=1)
        return BuildResult([one for one in (node, other) if one.unique_id not in without], 0.1)

    def reload(self) -> bool:
        """No change."""
        return False

    def close(self) -> None:
        """Nothing to close."""


class Backlogged(SourceDouble):
    """A source with so many rows; each step lands at most a batch of them, or raises what `error` has."""

    def __init__(self, rows: int, update_delay: float = 0.0, name: str = "") -> None:
        super().__init__(name, update_delay)
        self.rows = rows
        self.ingested = 0
        self.error: SourceError | None = None
        self.is_flowing = False

    def wait(self, timeout: float) -> bool:
        """Not asked by intervals."""
        raise AssertionError(timeout)

    def waiting(self) -> Waiting:
        """What is left."""
        return Waiting(rows=self.rows)

    def step(self, max_rows: int) -> list[Ingested]:
        """One batch: committed long ago, or, where rows keep coming, just now."""
        if self.error is not None:
            raise self.error
        count = 1 if self.is_flowing and not self.rows else min(max_rows, self.rows)
        if not count:
            return []
        at = datetime.now(UTC) if self.is_flowing and not self.rows else datetime.now(UTC) - timedelta(hours=1)
        self.rows = max(0, self.rows - count)
        self.ingested += count
        return [replace(ingested("transactions", count, self.ingested - count, self.ingested), newest_committed_at=at)]


@pytest.fixture
def models() -> ScriptedModels:
    return ScriptedModels()


Make = Callable[..., Cycle]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: ScriptedModels) -> Make:
    """Makes a cycle over scripted sources."""

    def of(*backlogged: Backlogged, **settings: Any) -> Cycle:
        for number, one in enumerate(backlogged):
            one.name = one.name or f"source {number}"
            one.update_delay = one.update_delay or settings.get("update_delay", 0.0)
        found = [Source(one) for one in backlogged]
        monkeypatch.setattr(cycle_module, "sources", lambda _settings, _lake: found)
        monkeypatch.setattr(cycle_module, "Transformer", lambda _settings: models)
        return Cycle(load_settings(lake=str(tmp_path / "lake"), batch_rows=BATCH, **settings))

    return of


def never() -> bool:
    return False


def test_failing_hot_models_are_problems_until_they_are_well_again(make: Make, models: ScriptedModels) -> None:
    models.broken = {"alerts": "Binder Error: no such column", "follow": "Out of Memory"}
    with make(Backlogged(0)) as cycle:
        result = cycle.follow(cycle.run([ingested("transactions", 1, 0, 1)]))
        waits = "(rows of transactions wait for it)"
        assert result.problems == {
            "model alerts": f"Binder Error: no such column {waits}",
            "model follow": f"Out of Memory {waits}",
        }
        assert not result.is_scored
        models.broken = {}
        cycle._alerts.due = cycle._follow.due = 0.0
        result = cycle.follow(cycle.run([]))
        assert result.problems == {} and result.is_scored


def test_a_failed_model_waits_for_its_pause_and_the_others_are_built_as_rows_come(
    make: Make, models: ScriptedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle_module, "AFTER_FAILURE_SECONDS", (3600.0,))
    models.broken = {"alerts": "Out of Memory"}
    with make(Backlogged(0)) as cycle:
        first = cycle.run([ingested("transactions", 1, 0, 1)])
        assert [node.name for node in first.builds[0].failed_models] == ["alerts"]
        for position in range(1, 4):
            result = cycle.run([ingested("card_transactions", 1, position - 1, position)])
            assert [node.name for node in result.builds[0].nodes] == ["cards_alerts"], "at once, without the failed one"
            assert "model alerts" in result.problems and result.unscored == {"transactions"}
        assert not cycle.run([]).builds, "nothing is new"
        models.broken = {}
        cycle._alerts.due = 0.0
        result = cycle.run([])
        assert len(result.builds[0].nodes) == 2 and result.problems == {} and result.is_scored


def test_rows_of_a_source_whose_model_fails_stay_unscored_and_those_of_the_other_do_not(
    make: Make, models: ScriptedModels
) -> None:
    models.broken = {"alerts": "Out of Memory"}
    backlog = Backlog()
    with make(Backlogged(0)) as cycle:
        scoring = Scoring(cycle, backlog)

        def behind(*batches: Ingested) -> dict[str, int]:
            backlog.ingested(batches)
            result = scoring.run(batches, is_shared=False)
            return {source: one.rows for source, one in result.behind.items()}

        assert behind(ingested("transactions", 5, 0, 1), ingested("card_transactions", 7, 0, 1)) == {
            "cards": 0,
            "bank": 5,
        }
        assert behind(ingested("transactions", 5, 1, 2), ingested("card_transactions", 7, 1, 2)) == {
            "cards": 0,
            "bank": 10,
        }
        models.broken = {}
        cycle._alerts.due = 0.0
        assert behind(ingested("card_transactions", 7, 2, 3)) == {"cards": 0, "bank": 0}


def test_catch_up_does_what_it_can_for_every_source_and_then_names_what_failed(
    make: Make, models: ScriptedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle_module, "publish_features", lambda _settings, _lake: [])
    unreachable, other = Backlogged(BATCH), Backlogged(3 * BATCH)
    with make(unreachable, other) as cycle:
        models.broken = {"alerts": "Out of Memory"}
        with pytest.raises(TransformError, match="could not build alerts: Out of Memory"):
            cycle.catch_up()
        assert other.ingested == 3 * BATCH and models.asked[-4:] == ["alerts", "follow", "rest", "hot_tests"]
    unreachable, other = Backlogged(BATCH), Backlogged(3 * BATCH)
    unreachable.error = SourceError("no server answers", "start it")
    with make(unreachable, other) as cycle:
        models.broken = {}
        with pytest.raises(SourceError, match="no server answers"):
            cycle.catch_up()
        assert other.ingested == 3 * BATCH and models.asked[-4:] == ["alerts", "follow", "rest", "hot_tests"]
        other.error, models.asked = unreachable.error, []
        with pytest.raises(SourceError, match="no server answers"):
            cycle.catch_up()
        assert models.asked == [], "at once where there is no source"


def test_an_interval_drains_the_sources_batch_by_batch(make: Make) -> None:
    first, second = Backlogged(4 * BATCH + 3), Backlogged(BATCH)
    with make(first, second, update_delay=3600.0) as cycle:
        intervals = Intervals(cycle)
        results = list(intervals.cycles(never))
        assert (first.ingested, second.ingested) == (4 * BATCH + 3, BATCH)
        assert max(one.rows for one in results) <= 2 * BATCH, "a micro-batch of each source at a time"
        reported = [one.behind["source 0"].source_rows for one in results]
        assert reported == sorted(reported, reverse=True) and reported[-1] == 0
        first.rows = 1
        assert not intervals.is_time
        (between,) = intervals.cycles(never)
        assert between.rows == 0 and between.delivery is not None, "deliveries are tried again"


def test_each_source_is_drained_in_an_interval_of_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("fraud_lakehouse.live.intervals.time", SimpleNamespace(monotonic=lambda: clock.now))
    often, seldom = Backlogged(BATCH, 60.0, "often"), Backlogged(BATCH, 3600.0, "seldom")
    with make(often, seldom) as cycle:
        intervals = Intervals(cycle)
        list(intervals.cycles(never))
        assert (often.ingested, seldom.ingested) == (BATCH, BATCH)
        often.rows = seldom.rows = BATCH
        clock.now += 59.0
        assert not intervals.is_time
        clock.now += 1.0
        assert intervals.is_time
        behind = list(intervals.cycles(never))[-1].behind
        assert (often.ingested, seldom.ingested) == (2 * BATCH, BATCH)
        assert (behind["often"].delay, behind["seldom"].delay) == (60.0, 3600.0)
        clock.now += 3540.0
        often.rows = BATCH
        list(intervals.cycles(never))
        assert (often.ingested, seldom.ingested) == (3 * BATCH, 2 * BATCH)


def test_a_drain_ends_where_rows_keep_coming_and_when_it_is_to_stop(make: Make) -> None:
    flowing = Backlogged(2 * BATCH)
    flowing.is_flowing = True
    with make(flowing, update_delay=3600.0) as cycle:
        results = list(Intervals(cycle).cycles(never))
        assert flowing.rows == 0 and results[-1].rows == 1, "what comes after it began is the next one's"
        flowing.rows = 100 * BATCH
        assert len(list(Intervals(cycle).cycles(lambda: True))) == 1


def test_a_source_that_was_away_is_drained_before_the_interval_is_over(make: Make) -> None:
    away = Backlogged(BATCH)
    away.error = SourceError("no broker answers", "start it")
    with make(away, update_delay=3600.0) as cycle:
        intervals = Intervals(cycle)
        (result,) = intervals.cycles(never)
        assert "no broker answers" in result.problems["source 0"]
        assert not intervals.is_time, "asked again after a pause"
        away.error = None
        cycle.sources[0].retry_at = 0.0
        assert intervals.is_time
        assert sum(one.rows for one in intervals.cycles(never)) == BATCH
        assert cycle.problems == {} and not intervals.is_time


def test_a_failed_model_is_built_again_between_two_intervals(make: Make, models: ScriptedModels) -> None:
    models.broken = {"alerts": "Out of Memory"}
    with make(Backlogged(BATCH), update_delay=3600.0) as cycle:
        intervals = Intervals(cycle)
        behind = list(intervals.cycles(never))[-1].behind
        assert behind["bank"].rows == BATCH, "landed, not scored"
        models.broken = {}
        cycle._alerts.due = 0.0
        (result,) = intervals.cycles(never)
        assert result.is_scored and result.behind["bank"].rows == 0


def test_an_analysts_disposition_is_a_label_before_the_models_of_the_same_cycle_run(
    make: Make, models: ScriptedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[Any, ...]]] = []
    build = models.build_tier

    def build_tier(tier: str, *, without: Collection[str] = ()) -> BuildResult:
        columns = "stream", "transaction_id", "is_fraud", "origin", "author"
        seen.append(scan(cycle.lake.open("silver", "labels")).select(columns).collect().rows())
        return build(tier, without=without)

    monkeypatch.setattr(models, "build_tier", build_tier)
    with make(Backlogged(0)) as cycle:
        row = {"id": 1, "stream": "card_payments", "transaction_id": "t1", "is_fraud": True, "known_at": None}
        row |= {"author": "ann", "note": None, "_op": "c", "_lsn": 7, "_seq": 0, "_committed_at": datetime.now(UTC)}
        frame = pl.DataFrame([row], schema_overrides={"known_at": pl.Datetime("us", "UTC"), "note": pl.String()})
        bronze = Appender.open(cycle.lake, "bronze", "console_analyst_label", with_ingestion(dict(frame.schema)))
        bronze.append(frame, {})
        cycle.run([])
    assert seen == [[("card_payments", "t1", True, "analyst", "ann")]]


def test_a_problem_with_labels_is_reported_and_stops_no_build(make: Make, models: ScriptedModels) -> None:
    with make(Backlogged(0)) as cycle:
        frame = pl.DataFrame([{"id": 1, "_op": "c", "_lsn": 7}])
        Appender.open(cycle.lake, "bronze", "console_analyst_label", with_ingestion(dict(frame.schema))).append(
            frame, {}
        )
        result = cycle.run([])
        assert "has no column stream" in result.problems["labels of analysts"]
    assert models.asked == ["alerts"]
