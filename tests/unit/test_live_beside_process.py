"""The process beside: what fails there is told by name, tried again and taken back; it ends when its parent does."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.detection.validator import ValidatorWorker
from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.ingest.idle_partitions import TABLE as OBSERVATIONS
from fraud_lakehouse.live import background_process as beside_process
from fraud_lakehouse.live.duty_cycle import Rest
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sinks.kafka.background import PublishWorker
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import watched
from fraud_lakehouse.storage.schemas import IDLE_PARTITIONS
from fraud_lakehouse.storage.writer_lock import BESIDE, is_held, writer_lock
from fraud_lakehouse.transform.build_result import BuildResult, NodeResult
from tests.patience import PATIENCE


def built(name: str, status: str = "success", message: str = "") -> BuildResult:
    return BuildResult([NodeResult(f"model.x.{name}", name, "model", status, 0.1, message=message)], 0.1)


class ScriptedTransformer:
    """Builds the lanes with the scripted results, the last of them again and again; refuses while `refusal` is set."""

    def __init__(self, *results: BuildResult) -> None:
        self.results = list(results)
        self.ineligibility: str | None = None
        self.changes = 0
        self.is_ready = True

    def reload(self) -> bool:
        """Whether there is a change."""
        if self.ineligibility:
            raise TransformError(self.ineligibility, "mend it")
        self.is_ready = True
        self.changes -= 1
        return self.changes >= 0

    def build_tier(self, tier: str) -> BuildResult:
        """The next result for the replica lane, a good one for the other."""
        if tier != "replica":
            return built("vectors")
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]

    def close(self) -> None:
        """Nothing to close."""


@contextmanager
def serving(
    settings: Settings, transformer: ScriptedTransformer, monkeypatch: pytest.MonkeyPatch, *, changes: int = 1
) -> Iterator[Iterator[dict[str, Any]]]:
    """The process's work in a thread, told of changes; gives its answers. Its parent goes away at the end."""
    monkeypatch.setattr(beside_process, "Transformer", lambda _settings: transformer)
    monkeypatch.setattr(beside_process, "AFTER_FAILURE_SECONDS", (0.0,))
    monkeypatch.setattr(beside_process, "PROJECT_SECONDS", 0.01)
    (read_lines, write_lines), (read_answers, write_answers) = os.pipe(), os.pipe()
    with open(read_lines) as lines, open(read_answers) as answers, open(write_answers, "w") as say:
        workers = PublishWorker(settings), ValidatorWorker(settings)
        thread = threading.Thread(target=beside_process.serve, args=(settings, lines, say, *workers), daemon=True)
        with open(write_lines, "w") as parent:
            parent.write("changed\n" * changes)
            parent.flush()
            thread.start()
            yield (answer for line in answers if (answer := json.loads(line)))  # without the heartbeats
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it ends with its parent"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(lake=str(tmp_path / "lake"), replica_interval=0.0)


def until(answers: Iterator[dict[str, Any]], problems: dict[str, str]) -> list[dict[str, Any]]:
    """The answers up to the first with these problems."""
    found: list[dict[str, Any]] = []
    for answer in answers:
        found.append(answer)
        if answer["problems"] == problems:
            return found
    raise AssertionError(f"not told: {problems}; but {found[-3:]}")


def nodes(answers: Sequence[dict[str, Any]]) -> list[str]:
    return [node["name"] for answer in answers for node in answer.get("nodes", [])]


def test_a_failing_model_is_told_by_name_built_again_and_taken_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = ScriptedTransformer(built("users", "error", "Binder Error: no such column"), built("users"))
    with serving(settings, transformer, monkeypatch) as answers:
        until(answers, {"model users": "Binder Error: no such column"})
        mended = until(answers, {})
    assert "users" in nodes(mended), "built again without a change of the rows"


def test_a_changed_project_is_built_by_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = ScriptedTransformer(built("users"))
    transformer.changes = 1
    with serving(settings, transformer, monkeypatch, changes=0) as answers:
        assert nodes([next(answers)]) == ["users"]


def test_a_process_that_takes_over_rests_for_what_the_one_before_worked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.work_dir.mkdir(parents=True)
    Rest(settings.work_dir).begin(100.0, 0.0)
    transformer = ScriptedTransformer(built("users"))
    transformer.is_ready, transformer.changes = False, 1  # the project it takes over first is no change
    with serving(settings, transformer, monkeypatch) as answers:
        assert nodes([next(answers) for _ in range(5)]) == []
        transformer.changes = 1
        assert any("users" in nodes([answer]) for answer in answers)


def test_an_observation_that_a_topic_is_quiet_is_built_by_though_nothing_has_landed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = ScriptedTransformer(built("users"))
    with serving(settings, transformer, monkeypatch, changes=0) as answers:
        assert nodes([next(answers), next(answers)]) == []
        table = Appender.open(Lake.at(settings.lake), *OBSERVATIONS, IDLE_PARTITIONS)
        table.append(pl.DataFrame([{"observed_at": datetime.now(UTC)}], schema=IDLE_PARTITIONS), {})
        assert any("vectors" in nodes([answer]) for answer in answers)


def test_a_refused_project_and_a_broken_model_are_told_side_by_side(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = ScriptedTransformer(built("users", "skipped"))
    transformer.ineligibility = "dbt could not build rule_velocity"
    with serving(settings, transformer, monkeypatch) as answers:
        refused = str(TransformError(transformer.ineligibility, "mend it"))
        skipped = "skipped: an upstream model failed"
        until(answers, {"project": refused, "model users": skipped})
        transformer.ineligibility = None
        until(answers, {"model users": skipped})


def test_it_beats_while_its_loop_goes_on_and_no_more_once_it_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_process, "BEAT_SECONDS", 0.01)
    read, write = os.pipe()
    with open(read) as answers, open(write, "w") as say, watched():
        sent = beside_process._Answers(say)
        assert [next(answers) for _ in range(3)] == ["{}\n"] * 3
        monkeypatch.setattr(beside_process, "is_stuck", lambda: True)
        time.sleep(0.2)
        sent.send({"problems": {}})
        while (line := next(answers)) == "{}\n":
            pass
        assert json.loads(line) == {"problems": {}}
        os.set_blocking(read, False)
        time.sleep(0.2)
        assert answers.readline() == ""


def test_its_parents_end_is_noticed_while_it_waits_for_its_turn(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = ScriptedTransformer(built("users"))
    with writer_lock(settings.work_dir, 0, BESIDE), serving(settings, transformer, monkeypatch):
        while not is_held(settings.work_dir / "beside.queue"):
            pass
