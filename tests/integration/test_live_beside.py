"""The process beside the cycle: builds the replica lane, is started again when killed, refuses a broken project."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import psycopg
import pytest

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.live.background import BackgroundWorker
from fraud_lakehouse.live.duty_cycle import Rest
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.writer_lock import BESIDE, is_held, writer_lock
from fraud_lakehouse.transform.build_result import BuildResult
from fraud_lakehouse.transform.project import shipped_project
from fraud_lakehouse.transform.runner import Transformer
from tests.catalogues import PIPELINE
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow


def until(ready: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def ingested(database: str, tmp_path: Path) -> Settings:
    """A lake with ten transactions in bronze and the hot lane built."""
    with psycopg.connect(database) as connection:
        connection.execute(
            "create table users (user_id int primary key, name text, email text, registration_date timestamp)"
        )
        connection.execute(
            "create table transactions (transaction_id int primary key, user_id int, transaction_date timestamp,"
            " amount decimal(10,2))"
        )
        connection.execute("insert into transactions select i, 1, now(), i from generate_series(1, 10) i")
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, replica_interval=0.0)
    with Cycle(settings) as cycle:
        cycle.follow(cycle.run(cycle.capture()))
    return settings


def test_it_builds_what_no_alert_waits_for_and_is_replaced_when_killed_or_stopped(
    database: str, tmp_path: Path
) -> None:
    settings = ingested(database, tmp_path)
    built: list[BuildResult] = []

    def took(beside: BackgroundWorker) -> bool:
        built.extend(beside.take())
        return bool(built)

    with BackgroundWorker(settings) as beside:
        beside.note_change()
        until(lambda: took(beside))
        assert built[-1].rows("transactions") == 10 and not built[-1].failed
        assert pl.read_delta(f"{settings.lake}/silver/transactions").height == 10
        first = beside.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        built.clear()
        Rest(settings.work_dir).end()  # the next one would rest for what the first has worked
        until(lambda: not beside.take() and beside.pid != first)
        beside.note_change()
        until(lambda: took(beside))
        stopped = beside.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        built.clear()
        Rest(settings.work_dir).end()
        until(lambda: not beside.take() and beside.pid not in (None, stopped))
        beside.note_change()
        until(lambda: took(beside))
    assert beside.pid is None


def test_a_stop_waits_neither_for_a_turn_nor_for_a_process_that_hangs(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ingested(database, tmp_path)
    with writer_lock(settings.work_dir, 0, BESIDE), BackgroundWorker(settings) as beside:
        beside.note_change()
        until(lambda: is_held(settings.work_dir / "beside.queue"))
    monkeypatch.setattr("fraud_lakehouse.live.background.GRACE_SECONDS", 0.1)
    monkeypatch.setattr("fraud_lakehouse.live.background._TERMINATE_SECONDS", 0.1)
    with BackgroundWorker(settings) as beside:
        beside.note_change()
        hanging = beside.pid
        assert hanging is not None
        os.kill(hanging, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(hanging, 0)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the dbt project, to be changed."""
    copied = tmp_path / "project"
    shutil.copytree(shipped_project(), copied, ignore=shutil.ignore_patterns("target", "logs"))
    shutil.copytree(PIPELINE, copied / "pipeline")
    return copied


def test_a_change_that_does_not_parse_is_refused_and_the_old_one_goes_on(project: Path, tmp_path: Path) -> None:
    settings = load_settings(lake=str(tmp_path / "lake"), cache=tmp_path / "cache")
    model, catalogue = project / "models" / "gold" / "user_avg.sql", project / "pipeline" / "features.yml"
    with closing(Transformer(settings, project)) as hot, closing(Transformer(settings, project)) as beside:
        assert hot.follow() and beside.reload()
        good = model.read_text()
        model.write_text(good + "{{ ref('no_such_model') }}")
        for _ in range(2):  # the second time without parsing it again
            with pytest.raises(TransformError, match="no_such_model"):
                beside.reload()
        assert not hot.follow(), "the old one stays"
        assert not hot.build_tier("replica").failed
        model.write_text(good)
        features = catalogue.read_text()
        catalogue.write_text("features: [")
        with pytest.raises(TransformError, match="is not YAML"):
            beside.reload()
        assert not hot.follow(), "it is told by who parses"
        catalogue.write_text(features)
        model.write_text(good + "\n-- changed")
        assert not hot.follow(), "dbt has not parsed it yet"
        assert beside.reload() and hot.follow()


def test_sql_that_does_not_hold_is_refused_by_the_model_and_taken_once_it_is_mended(
    project: Path, tmp_path: Path, database: str
) -> None:
    settings = ingested(database, tmp_path)
    models = project / "models"
    with closing(Transformer(settings, project)) as hot, closing(Transformer(settings, project)) as beside:
        assert hot.follow() and beside.reload()
        for model in (models / "silver" / "card_transactions_late.sql", models / "gold" / "alerts.sql"):
            good = model.read_text()
            config, sql = good.split("}}", 1)
            model.write_text(f"{config}}}}}\nselect no_such_column, * from ({sql}) as built")
            for _ in range(2):  # the second time from memory
                with pytest.raises(TransformError, match=rf"(?s){model.stem}.*no_such_column"):
                    beside.reload()
            assert not hot.follow(), "the old one stays"
            assert not hot.build_tier("hot").failed
            with closing(Transformer(settings, project)) as successor:
                assert successor.follow(), "a process that starts meanwhile goes on with the old one"
                assert successor.project == hot.project
            model.write_text(good + "\n-- mended")
            assert beside.reload() and hot.follow()
            assert hot.project == beside.project
        assert not hot.build_tier("hot").failed


def test_a_first_start_with_a_broken_model_says_so_and_uses_nothing(project: Path, tmp_path: Path) -> None:
    model = project / "models" / "gold" / "alerts.sql"
    model.write_text(model.read_text() + "\nwhere no_such_column = false")
    with closing(Transformer(load_settings(lake=str(tmp_path / "lake")), project)) as first:
        with pytest.raises(TransformError, match=r"(?s)alerts.*no_such_column"):
            first.follow()
        assert not first.is_ready
