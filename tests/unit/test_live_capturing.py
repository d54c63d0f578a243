"""Sources captured by threads: none waits for another, an error of the lake ends the loop, a gap does not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from polars.exceptions import PanicException

from fraud_lakehouse.errors import GapError, LakeError, SourceError
from fraud_lakehouse.ingest import Ingested, Waiting
from fraud_lakehouse.live.ingesting import Capturing, IngestQueue
from fraud_lakehouse.live.source import Source
from fraud_lakehouse.storage.writer_lock import writer_lock
from tests.definitions.stand import ingested
from tests.patience import PATIENCE
from tests.source_double import SourceDouble


class Scripted(SourceDouble):
    """A source that has data while there are steps; each step is called, and gives rows or raises."""

    def __init__(self, name: str, *steps: Callable[[], list[Ingested]], update_delay: float = 0.0) -> None:
        super().__init__(name, update_delay)
        self.steps = list(steps)
        self.drained = threading.Event()

    def wait(self, timeout: float) -> bool:
        """Data as long as there are steps."""
        if not self.steps:
            self.drained.set()
            time.sleep(min(timeout, 0.01))
        return bool(self.steps)

    def step(self, max_rows: int) -> list[Ingested]:
        """The next step."""
        return self.steps.pop(0)() if self.steps else []


def rows(table: str, start: int) -> Callable[[], list[Ingested]]:
    return lambda: [ingested(table, 1, start, start + 1)]


def failing(error: BaseException) -> Callable[[], list[Ingested]]:
    def step() -> list[Ingested]:
        raise error

    return step


def taken(ingest_queue: IngestQueue, count: int) -> list[Ingested]:
    """Batches in the order of landing, until there are `count`."""
    found: list[Ingested] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count and time.monotonic() < deadline:
        found += ingest_queue.take(0.1)[0]
    return found


def test_a_source_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    release = threading.Event()

    def hanging() -> list[Ingested]:
        release.wait(PATIENCE)
        return [ingested("transactions", 1, 0, 1)]

    slow, quick = Scripted("bank", hanging), Scripted("cards", *(rows("card_transactions", at) for at in range(3)))
    with Capturing([Source(slow), Source(quick)], tmp_path, 1000) as ingest_queue:
        assert [batch.from_position for batch in taken(ingest_queue, 3)] == [0, 1, 2]
        release.set()
        assert [batch.table for batch in taken(ingest_queue, 1)] == ["transactions"]


def test_a_source_with_a_gap_waits_for_a_person_and_one_that_is_away_is_asked_again(tmp_path: Path) -> None:
    gone = Scripted("bank", failing(GapError("the slot is gone", "resync")), rows("transactions", 0))
    away = Scripted("cards", failing(SourceError("no broker", "start it")), rows("card_transactions", 0))
    postgres, kafka = Source(gone), Source(away)
    with Capturing([postgres, kafka], tmp_path, 1000) as ingest_queue:
        assert [batch.table for batch in taken(ingest_queue, 1)] == ["card_transactions"]
    assert postgres.problem is not None and "the slot is gone" in postgres.problem
    assert len(gone.steps) == 1, "nothing is skipped behind a gap"
    assert kafka.problem is None


@pytest.mark.parametrize("defect", [OverflowError("date value out of range"), PanicException("not a number")])
def test_a_defect_in_the_capture_of_a_source_is_its_problem_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, defect: BaseException
) -> None:
    monkeypatch.setattr("fraud_lakehouse.live.source.RETRY_SECONDS", (0.0,))
    noted = threading.Event()
    proceed = threading.Event()

    def until_seen() -> list[Ingested]:
        noted.set()
        proceed.wait(PATIENCE)
        return [ingested("transactions", 1, 0, 1)]

    faulty = Scripted("bank", failing(defect), failing(defect), until_seen)
    postgres = Source(faulty)
    quick = Scripted("cards", *(rows("card_transactions", at) for at in range(3)))
    with Capturing([postgres, Source(quick)], tmp_path, 1000) as ingest_queue:
        assert {batch.table for batch in taken(ingest_queue, 3)} == {"card_transactions"}
        assert noted.wait(PATIENCE)
        assert postgres.problem == f"{type(defect).__name__}: {defect}"
        proceed.set()
        assert [batch.table for batch in taken(ingest_queue, 1)] == ["transactions"]
    assert postgres.problem is None
    traces = [record for record in caplog.records if record.exc_info and record.exc_info[1] is defect]
    assert [record.levelname for record in traces] == ["ERROR"], "with its traceback, once"


def test_a_defect_while_data_is_waited_for_makes_the_next_step_begin_anew(tmp_path: Path) -> None:
    idle = Idle("bank")
    idle.errors.append(OverflowError("date value out of range"))  # type: ignore[arg-type]
    postgres = Source(idle)
    with Capturing([postgres], tmp_path, 1000):
        assert becomes(lambda: idle.is_closed and postgres.problem is None and idle.steps > 0)


def test_rows_wait_in_the_source_while_as_many_as_a_batch_are_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud_lakehouse.live.ingesting.BACKLOG_SECONDS", 0.0)
    scripted = Scripted("cards", *(rows("card_transactions", at) for at in range(4)))
    scripted.waiting = lambda: Waiting(rows=len(scripted.steps))  # type: ignore[method-assign]
    capturing = Capturing([Source(scripted)], tmp_path, 2)
    with capturing as ingest_queue:
        first = taken(ingest_queue, 2)
        assert capturing.backlog.is_full("cards", 2)
        assert ingest_queue.take(1.0) == ([], False), "the third stays in the source"
        assert capturing.backlog.now()["cards"].source_rows == 2
        capturing.backlog.scored(first)
        assert len(taken(ingest_queue, 2)) == 2


class Idle(SourceDouble):
    """A source without data: counts the looks for data, and the steps that are taken all the same."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.errors: list[SourceError] = []
        self.looks = self.steps = 0

    def wait(self, timeout: float) -> bool:
        """No data."""
        self.looks += 1
        if self.errors:
            raise self.errors.pop()
        time.sleep(0.001)
        return False

    def step(self, max_rows: int) -> list[Ingested]:
        """Nothing to land; what was due is done."""
        self.steps += 1
        self.due = math.inf
        return []


def becomes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


def test_an_idle_source_takes_a_step_when_one_is_due_or_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud_lakehouse.live.ingesting.LOOK_SECONDS", 3600.0)
    monkeypatch.setattr("fraud_lakehouse.live.ingesting.LONGEST_PACE_SECONDS", 0.0)
    monkeypatch.setattr("fraud_lakehouse.live.source.RETRY_SECONDS", (0.0,))
    idle = Idle("bank")
    postgres = Source(idle)
    with Capturing([postgres], tmp_path, 1000):
        assert becomes(lambda: idle.looks > 20) and idle.steps == 1, "the first one, which connects"
        idle.due = 0.0
        assert becomes(lambda: idle.steps == 2)
        idle.errors.append(SourceError("the server went away", "start it"))
        assert becomes(lambda: idle.steps == 3) and postgres.problem is None
        looks = idle.looks
        assert becomes(lambda: idle.looks > looks + 20) and idle.steps == 3


def test_what_an_idle_source_has_read_past_is_no_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraud_lakehouse.live.ingesting.LOOK_SECONDS", 3600.0)
    idle, position = Idle("cards"), {"0": 4}
    idle.waiting = lambda: Waiting(rows=1, ends={"0": 5})  # type: ignore[method-assign]
    idle.position = lambda: position  # type: ignore[method-assign]
    capturing = Capturing([Source(idle)], tmp_path, 1000)

    def seconds() -> float:
        return capturing.backlog.now(datetime.now(UTC) + timedelta(minutes=1))["cards"].seconds

    with capturing:
        assert becomes(lambda: seconds() > 0.0), "one record is there"
        position["0"] = 5  # the marker of a transaction: no step gets rows of it
        assert becomes(lambda: seconds() == 0.0) and idle.steps == 1


def unreachable() -> Waiting:
    raise SourceError("no broker", "start it")


def test_the_backlog_knows_what_was_landed_and_what_the_source_still_has(tmp_path: Path) -> None:
    bank, cards = Scripted("bank", rows("transactions", 0)), Scripted("cards", rows("card_transactions", 0))
    bank.waiting = lambda: Waiting(size=8192)  # type: ignore[method-assign]
    cards.waiting = unreachable  # type: ignore[method-assign]
    began = datetime.now(UTC)
    capturing = Capturing([Source(bank), Source(cards)], tmp_path, 1000)
    with capturing as ingest_queue:
        taken(ingest_queue, 2)
    behind = capturing.backlog.now()
    assert {name: one.rows for name, one in behind.items()} == {"bank": 1, "cards": 1}
    assert (behind["bank"].source_bytes, behind["cards"].source_rows) == (8192, None)
    later = capturing.backlog.now(datetime.now(UTC) + timedelta(minutes=1))
    assert later["cards"].away_since is not None and later["cards"].away_since - began < timedelta(seconds=30)


def test_a_lake_that_cannot_be_written_ends_the_loop(tmp_path: Path) -> None:
    broken = Scripted("cards", failing(LakeError("the disk is full", "free space")))
    with (
        Capturing([Source(broken)], tmp_path, 1000) as ingest_queue,
        pytest.raises(LakeError, match="the disk is full"),
    ):
        taken(ingest_queue, 1)


def test_rows_that_another_process_is_landing_are_built_too(tmp_path: Path) -> None:
    scripted = Scripted("bank", rows("transactions", 0))
    with (
        writer_lock(tmp_path, 0, "bank"),
        Capturing([Source(scripted)], tmp_path, 1000) as ingest_queue,
    ):
        assert ingest_queue.take(30) == ([], True)
        assert len(scripted.steps) == 1, "its turn is not ours"


class Observing(Scripted):
    """A source whose last step but one finds that it has nothing more."""

    def step(self, max_rows: int) -> list[Ingested]:
        """The next step."""
        found = super().step(max_rows)
        self.has_observed = len(self.steps) == 1
        return found


def test_models_are_built_where_a_source_was_observed_to_have_nothing_more(tmp_path: Path) -> None:
    scripted = Observing("cards", list, list, list)
    with Capturing([Source(scripted)], tmp_path, 1000) as ingest_queue:
        assert ingest_queue.take(30) == ([], True)
        assert scripted.drained.wait(PATIENCE)
        assert ingest_queue.take(0.0) == ([], False), "it is told once"


class Clock:
    """A monotonic clock that goes on by hand; of the module that asks it for the time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


def test_a_source_with_an_update_delay_is_drained_once_in_it_and_the_other_is_read_as_rows_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("fraud_lakehouse.live.ingesting.time", clock)
    monkeypatch.setattr("fraud_lakehouse.live.ingesting.PACE_SECONDS", 0.0)

    def of_now(start: int) -> Callable[[], list[Ingested]]:
        """A row that comes after the drain began."""
        return lambda: [
            replace(ingested("transactions", 1, start, start + 1), newest_committed_at=datetime.max.replace(tzinfo=UTC))
        ]

    delayed = Scripted(
        "bank", rows("transactions", 0), rows("transactions", 1), of_now(2), of_now(3), update_delay=60.0
    )
    prompt = Scripted("cards", *(rows("card_transactions", at) for at in range(30)))
    with Capturing([Source(delayed), Source(prompt)], tmp_path, 1000) as ingest_queue:
        found = taken(ingest_queue, 33)
        of_bank = [batch.from_position for batch in found if batch.table == "transactions"]
        assert (len(found), of_bank) == (33, [0, 1, 2]), "all that was there, and none of what comes in the interval"
        assert ingest_queue.take(0.5) == ([], False)
        clock.now += 59.0
        assert ingest_queue.take(0.5) == ([], False)
        clock.now += 1.0
        assert [batch.from_position for batch in taken(ingest_queue, 1)] == [3]


def test_batches_of_two_sources_that_land_together_are_taken_together() -> None:
    ingest_queue, second = IngestQueue(), threading.Event()

    def land_later() -> None:
        with ingest_queue.ingesting():
            second.set()
            time.sleep(0.02)
            ingest_queue.put([ingested("card_transactions", 1, 0, 1)])

    thread = threading.Thread(target=land_later)
    thread.start()
    second.wait(PATIENCE)
    ingest_queue.put([ingested("transactions", 1, 0, 1)])
    found, _ = ingest_queue.take(30)
    thread.join()
    assert {batch.table for batch in found} == {"transactions", "card_transactions"}


def test_while_the_loop_is_busy_a_source_lands_just_before_it_is_ready() -> None:
    ingest_queue = IngestQueue()
    for _ in range(8):  # it learns that a batch keeps the loop busy for 0.1 s
        ingest_queue.put([ingested("transactions", 1, 0, 1)])
        ingest_queue.take(30)
        time.sleep(0.1)
    ingest_queue.put([ingested("transactions", 1, 0, 1)])
    ingest_queue.take(30)
    busy_from = time.monotonic()
    ingest_queue.wait_for_demand(lead=0.02, until=busy_from + 60)
    assert 0.01 < time.monotonic() - busy_from < 30


def test_a_loop_with_nothing_to_do_is_served_at_once() -> None:
    ingest_queue = IngestQueue()
    taking = threading.Thread(target=ingest_queue.take, args=(30,))
    taking.start()
    ingest_queue.wait_for_demand(lead=0.0, until=time.monotonic() + PATIENCE)
    assert taking.is_alive()
    ingest_queue.put([ingested("transactions", 1, 0, 1)])
    taking.join()
