"""When a topic is observed to have nothing more: while somebody waits for time to pass, and never without certainty."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.ingest import bronze, idle_partitions
from fraud_lakehouse.ingest import kafka as ingest_kafka
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.idle_partitions import TABLE, IdlePartitions, Windows, newest_of
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.records import CARD_SCHEMA
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.project import current_windows
from tests.unit.model_kafka import ModelKafka, ModelTopic

LANDED = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOLD = 60 + 15 + 0.001  # seconds after the landing: idle, lateness, and what is told lies strictly before


class Clock:
    """Stands in for `datetime` where landing is stamped, and observing."""

    at = LANDED

    @classmethod
    def now(cls, _zone: object) -> datetime:
        return cls.at


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bronze, "datetime", Clock)
    monkeypatch.setattr(ingest_kafka, "datetime", Clock)
    monkeypatch.setattr(Clock, "at", LANDED)


class Stand:
    """A lake and the process that lands a model of a topic in it."""

    def __init__(self, folder: Path, model: ModelTopic, **settings: float) -> None:
        self.lake = Lake.at(folder)
        self.model = model
        self.settings = Settings(lake=str(folder), kafka_bootstrap_servers="broker:9092", **settings)  # type: ignore[arg-type]
        self.ingest = self.process()

    def process(self) -> KafkaIngest:
        return KafkaIngest(self.settings, self.lake, capture=ModelKafka(self.model))  # type: ignore[arg-type]

    def land(self, *values: int) -> None:
        for value in values:
            self.model.publish(0, value)
        assert self.ingest.step(100, 0)
        assert not self.ingest.has_observed

    def observed_at(self, seconds: float) -> bool:
        """Whether a step so many seconds after LANDED, which lands nothing, records an observation."""
        Clock.at = LANDED + timedelta(seconds=seconds)
        assert self.ingest.step(100, 0) == []
        return self.ingest.has_observed

    @property
    def rows(self) -> pl.DataFrame:
        return pl.read_delta(self.lake.uri(*TABLE)).sort("observed_at", "partition")


def seconds_observed(stand: Stand, until: int, every: int) -> Iterator[int]:
    """When a process that looks every so many seconds records an observation."""
    return (at for at in range(0, until, every) if stand.observed_at(at))


def test_vectors_ask_for_one_observation_and_then_no_more(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic())
    stand.land(1, 2)
    assert not stand.observed_at(TOLD - 0.001)
    assert stand.observed_at(TOLD)
    assert not any(stand.observed_at(later) for later in (TOLD, 100, 1e4, 1e7))
    at = LANDED + timedelta(seconds=TOLD)
    assert stand.rows.select("source", "app_id", "topic", "partition", "position", "observed_at").rows() == [
        ("kafka", "kafka:C1:T1:0", "transaction", 0, 2, at),
        ("kafka", "kafka:C1:T1:1", "transaction", 1, 0, at),
    ]


def test_windows_ask_for_one_at_each_end_of_a_window_that_may_hold_a_payment(tmp_path: Path) -> None:
    """The only payment is at 11:59:30, so windows of six hours end in 30 s, and then by the hour until 17:00."""
    stand = Stand(tmp_path, ModelTopic(event_time="2024-05-01 11:59:30"), window_idle_seconds=120)
    stand.land(1)
    waited = 120 + 15
    ends = [waited + 30 + 3600 * hour for hour in range(6)]
    expected = [80, 140, *ends, waited + 6 * 3600]
    found = list(seconds_observed(stand, 8 * 3600, 5))
    behind = [at - wanted for at, wanted in zip(found, expected, strict=True)]
    assert behind == [0, 0, *[5] * 7], "the next look after it"


def test_without_an_event_time_the_windows_have_closed_in_the_end(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic(event_time="noon"), window_idle_seconds=120)
    stand.land(1)
    assert list(seconds_observed(stand, 8 * 3600, 5)) == [80, 140, 6 * 3600 + 140]


def test_a_landing_begins_anew(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic())
    stand.land(1)
    assert stand.observed_at(100)
    Clock.at = LANDED + timedelta(seconds=200)
    stand.land(2)
    assert not stand.observed_at(270)
    assert stand.observed_at(200 + TOLD)
    assert not stand.observed_at(400)


def test_the_lake_is_looked_at_only_when_something_may_be_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[datetime] = []
    monkeypatch.setattr(idle_partitions, "newest_of", lambda *given: looks.append(Clock.at) or newest_of(*given))
    stand = Stand(tmp_path, ModelTopic())
    stand.land(1)
    assert [at for at in range(1000) if stand.observed_at(at)] == [76]
    assert [(at - LANDED).total_seconds() for at in looks] == [75, 76]


def test_nothing_is_observed_of_a_broker_that_is_silent_or_of_records_that_wait(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic())
    stand.land(1)
    stand.model.is_silent = True
    assert not stand.observed_at(1000)
    stand.model.is_silent = False
    Clock.at = LANDED + timedelta(seconds=2000)
    stand.land(2)
    assert not stand.lake.exists(*TABLE)
    assert not stand.observed_at(2001)


def test_nothing_is_observed_where_nothing_has_landed(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic(), window_idle_seconds=1)
    assert not any(stand.observed_at(at) for at in (0, 100, 1e6))
    table = BronzeTable.open_or_create(stand.lake, "card_transactions", CARD_SCHEMA, ())
    rows = [
        {"_topic": "another", "_error": None},
        {"_topic": "transaction", "_error": "no JSON", "_raw": b"{"},
    ]
    table.append(pl.DataFrame(rows, schema=CARD_SCHEMA), {})
    assert not any(stand.observed_at(at) for at in (2e6, 3e6, 4e6)), "of another topic, and one that cannot be read"


def test_the_next_process_observes_what_is_due_and_nothing_twice(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic())
    stand.land(1)
    stand.ingest = stand.process()
    assert not stand.observed_at(70), "the idle seconds are those of the landing"
    stand.ingest = stand.process()
    assert stand.observed_at(80)
    stand.ingest = stand.process()
    assert not stand.observed_at(1000)
    assert stand.rows.height == 2


def test_two_processes_observe_once(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic())
    stand.land(1)
    Clock.at = LANDED + timedelta(seconds=100)
    one, two = stand.process(), stand.process()
    record = two._idle._record

    def record_after_the_other(*arguments: object) -> None:
        one.step(100, 0)
        record(*arguments)  # type: ignore[arg-type]

    two._idle._record = record_after_the_other  # type: ignore[method-assign,assignment]
    with pytest.raises(ConcurrentWriterError):
        two.step(100, 0)
    two._idle._record = record  # type: ignore[method-assign]
    assert two.step(100, 0) == []
    assert (one.has_observed, two.has_observed) == (True, False)
    assert stand.rows.height == 2


def test_who_only_looks_is_told_what_is_due(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic())
    topic = stand.ingest.capture.topic

    def due(seconds: float) -> datetime | None:
        return IdlePartitions(stand.lake, stand.settings).due(topic, LANDED + timedelta(seconds=seconds))

    assert due(1e6) is None
    stand.land(1)
    assert due(TOLD - 0.001) is None
    assert due(1e6) == LANDED + timedelta(seconds=TOLD)
    assert not stand.lake.exists(*TABLE)
    assert stand.observed_at(1000)
    assert due(1e6) is None


def test_the_newest_landing_is_found_though_the_newest_files_have_none_that_can_be_read(tmp_path: Path) -> None:
    stand = Stand(tmp_path, ModelTopic(event_time="2024-05-01 11:59:30"))
    stand.land(1)
    Clock.at = LANDED + timedelta(hours=1)
    table = BronzeTable.open_or_create(stand.lake, "card_transactions", CARD_SCHEMA, ())
    table.append(pl.DataFrame([{"_topic": "transaction", "_error": "no JSON"}], schema=CARD_SCHEMA), {})
    newest = newest_of(stand.lake.open("bronze", "card_transactions"), "transaction", 60, 0)
    assert newest is not None
    assert newest.landed_at == LANDED
    assert newest.event_time == datetime(2024, 5, 1, 11, 59, 30)  # noqa: DTZ001  event times have no zone


def test_the_windows_are_those_of_the_catalogue(tmp_path: Path) -> None:
    assert current_windows() == [Windows(1800, 1800), Windows(21600, 3600), Windows(21600, 21600)]
    (tmp_path / "features.yml").write_text("sources: [")
    assert current_windows(tmp_path) == [Windows(21600, 3600)]


@pytest.mark.parametrize("max_future, newest", [(86_400, 1), (0, 3)])
def test_an_event_time_that_models_exclude_is_not_the_newest(tmp_path: Path, max_future: float, newest: int) -> None:
    """Its windows would end beyond what a datetime holds, or be waited for in vain."""
    times = ["2026-01-01 11:00:00", "2026-01-02 12:00:00", "2026-01-02 12:00:01", "9998-12-31 23:59:59"]
    rows = {
        "_topic": "transaction",
        "_error": pl.Series([None] * 5, dtype=pl.String),
        "_timestamp": pl.Series([LANDED] * 3 + [None] * 2, dtype=pl.Datetime("us", "UTC")),
        "_ingested_at": LANDED,
        "trans_date_trans_time": [*times, "9999-12-31 23:59:59"],
    }
    write_deltalake(tmp_path / "cards", pl.DataFrame(rows))
    found = newest_of(DeltaTable(tmp_path / "cards"), "transaction", 60, max_future)
    assert found is not None and str(found.event_time) == times[newest]
