"""The order in which models are built, with an executor that only records it."""

from __future__ import annotations

import threading
from typing import Any, cast

from fraud_lakehouse.transform.build import build_models
from fraud_lakehouse.transform.compiled import Model
from fraud_lakehouse.transform.executor import Executor
from tests.compiled import project_of

PROJECT = project_of(
    {
        "ledger": ["bronze.transactions"],
        "cards": ["bronze.card_transactions"],
        "bank_features": ["ledger"],
        "card_features": ["cards"],
        "alerts": ["bank_features", "card_features"],
    }
)
PATIENCE = 60


class Recorder:
    """Builds nothing. The models of a pair wait for each other, so both must be under way at the same time."""

    def __init__(self, pairs: tuple[tuple[str, str], ...] = (), broken: str = "") -> None:
        self.finished: list[str] = []
        self._barriers = {name: barrier for pair in pairs for barrier in [threading.Barrier(2)] for name in pair}
        self._broken = broken

    def build(self, model: Model, *, full_refresh: bool) -> None:
        assert not full_refresh
        if model.name in self._barriers:
            self._barriers[model.name].wait(PATIENCE)
        if model.name == self._broken:
            raise ValueError("no such column")
        self.finished.append(model.name)


def built(recorder: Recorder, threads: int) -> dict[str, str]:
    results = build_models(cast("Executor", cast("Any", recorder)), PROJECT, PROJECT.models, threads=threads)
    assert [result.name for result in results] == [model.name for model in PROJECT.models]
    return {result.name: result.status for result in results}


def test_one_thread_builds_each_model_after_those_it_reads() -> None:
    recorder = Recorder()
    assert set(built(recorder, threads=1).values()) == {"success"}
    assert set(recorder.finished[:2]) == {"ledger", "cards"}
    assert recorder.finished[-1] == "alerts"


def test_two_threads_build_the_models_of_two_streams_at_the_same_time() -> None:
    recorder = Recorder(pairs=(("ledger", "cards"), ("bank_features", "card_features")))
    assert set(built(recorder, threads=2).values()) == {"success"}
    assert set(recorder.finished[:2]) == {"ledger", "cards"}
    assert recorder.finished[-1] == "alerts"


def test_a_model_that_fails_in_a_thread_skips_those_that_read_only_it() -> None:
    recorder = Recorder(broken="ledger")
    statuses = built(recorder, threads=2)
    assert statuses == {
        "ledger": "error",
        "cards": "success",
        "bank_features": "skipped",
        "card_features": "success",
        "alerts": "success",
    }
