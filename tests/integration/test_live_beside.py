"""The process beside the cycle: builds the replica lane, is started again when killed, refuses a broken project."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psycopg
import pytest

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.live.beside import Beside
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.transform.project import shipped_project
from fraud_lakehouse.transform.runner import BuildResult, Transformer


def until(ready: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def landed(database: str, tmp_path: Path) -> Settings:
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
        cycle.follow(cycle.run(cycle.capture(strict=True)), is_busy=False)
    return settings


def test_it_builds_what_no_alert_waits_for_and_survives_a_kill(database: str, tmp_path: Path) -> None:
    settings = landed(database, tmp_path)
    built: list[BuildResult] = []

    def took(beside: Beside) -> bool:
        built.extend(beside.take())
        return bool(built)

    with Beside(settings) as beside:
        beside.note_change()
        until(lambda: took(beside))
        assert built[-1].rows("transactions") == 10 and not built[-1].failed
        assert pl.read_delta(f"{settings.lake}/silver/transactions").height == 10
        first = beside.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        built.clear()
        until(lambda: not beside.take() and beside.pid != first)
        beside.note_change()
        until(lambda: took(beside))
    assert beside.pid is None


def test_a_broken_change_of_the_models_is_refused_and_the_old_one_goes_on(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(shipped_project(), project, ignore=shutil.ignore_patterns("target", "logs"))
    settings = load_settings(lake=str(tmp_path / "lake"), cache=tmp_path / "cache")
    model, catalogue = project / "models" / "gold" / "user_avg.sql", project / "features.yml"
    hot, beside = Transformer(settings, project), Transformer(settings, project)
    try:
        assert hot.reload() and beside.reload()
        good = model.read_text()
        model.write_text(good + "{{ ref('no_such_model') }}")
        for _ in range(2):  # the second time without parsing it again
            with pytest.raises(Exception, match="no_such_model"):
                beside.reload()
        assert not hot.reload(parse=False), "the old one stays"
        assert not hot.build_lane("replica").failed
        model.write_text(good)
        features = catalogue.read_text()
        catalogue.write_text("features: [")
        with pytest.raises(TransformError, match="is not YAML"):
            beside.reload()
        assert not hot.reload(parse=False), "it is told by who parses"
        catalogue.write_text(features)
        model.write_text(good + "\n-- changed")
        assert not hot.reload(parse=False), "dbt has not parsed it yet"
        assert beside.reload() and hot.reload(parse=False)
    finally:
        hot.close()
        beside.close()
