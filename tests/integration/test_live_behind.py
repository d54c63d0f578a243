"""How far the cycle is behind real sources: what they hold is known by their own positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.ingest import Ingested
from fraud_lakehouse.live.backlog import Backlog, Behind
from fraud_lakehouse.live.source import Source, sources
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import Broker, card

NOW = datetime(2100, 1, 1, tzinfo=UTC)  # of the backlog's clock


class Followed:
    """A source of which a backlog is kept, as by the thread that captures it."""

    def __init__(self, source: Source, work: Path) -> None:
        self.source = source
        self.backlog = Backlog({source.name: 0.0}, at=NOW)
        self._work = work

    def land(self) -> list[Ingested]:
        """Land what there is, as scored."""
        found: list[Ingested] = []
        while ingested := self.source.land(self._work, 1000):
            found += ingested
        assert self.source.problem is None
        self.backlog.ingested(found)
        self.backlog.read(self.source.name, self.source.ingest.position())
        self.backlog.scored(found)
        return found

    def ask(self, ago: float) -> None:
        """Ask the source what it has, so many seconds ago."""
        waiting, at = self.source.backlog(), NOW - timedelta(seconds=ago)
        assert waiting is not None
        self.backlog.at_source(self.source.name, waiting, self.source.ingest.position(), at)

    @property
    def behind(self) -> Behind:
        """How far it is behind now."""
        return self.backlog.now(NOW)[self.source.name]


@contextmanager
def followed(settings: Settings) -> Iterator[Followed]:
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    (source,) = sources(settings, Lake.at(settings.lake))
    try:
        yield Followed(source, settings.work_dir)
    finally:
        source.ingest.close()


@pytest.mark.postgres
def test_the_log_of_postgres_is_behind_until_it_is_read_whatever_is_in_it(database: str, tmp_path: Path) -> None:
    with (
        psycopg.connect(database, autocommit=True) as bank,
        followed(load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)) as postgres,
    ):
        bank.execute("create table users (user_id int primary key, name text)")
        bank.execute("create schema elsewhere")
        bank.execute("create table elsewhere.notes as select 1 as note")
        bank.execute("insert into users values (1, 'Ann')")
        assert sum(batch.rows for batch in postgres.land()) == 1
        bank.execute("insert into elsewhere.notes select * from generate_series(1, 1000)")
        postgres.ask(30.0)
        assert postgres.behind.seconds == 30.0 and (postgres.behind.source_bytes or 0) > 0, "it may be anything"
        assert (postgres.behind.retained_bytes or 0) > 0
        assert postgres.land() == []
        assert postgres.behind.seconds == 0.0, "it was nothing of ours"
        began = datetime.now(UTC)
        for user in (2, 3):
            bank.execute("insert into users values (%s, 'Bob')", (user,))
        postgres.ask(20.0)
        bank.execute("insert into elsewhere.notes values (7)")
        postgres.ask(10.0)
        assert postgres.behind.seconds == 20.0
        (batch,) = postgres.land()
        assert batch.oldest_committed_at is not None and batch.newest_committed_at is not None
        assert began < batch.oldest_committed_at < batch.newest_committed_at
        assert postgres.behind.seconds == 0.0


@pytest.mark.kafka
def test_a_topic_is_behind_until_every_partition_is_read(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic(2)
    with followed(kafka.settings(topic, lake=str(tmp_path / "lake"))) as cards:
        kafka.publish(topic, [encode(card(1))])
        assert sum(batch.rows for batch in cards.land()) == 1
        cards.ask(40.0)
        assert (cards.behind.seconds, cards.behind.source_rows) == (0.0, 0)
        sent = datetime.now(UTC).replace(microsecond=0)
        for partition, late in ((0, 5), (1, 9)):
            at = int((sent - timedelta(seconds=late)).timestamp() * 1000)
            kafka.publish(topic, [encode(card(10 + partition))], partition, at)
        cards.ask(30.0)
        cards.ask(10.0)
        assert (cards.behind.seconds, cards.behind.source_rows) == (30.0, 2)
        found = cards.land()
        times = [time for batch in found for time in (batch.oldest_committed_at, batch.newest_committed_at) if time]
        assert (min(times), max(times)) == (sent - timedelta(seconds=9), sent - timedelta(seconds=5))
        assert cards.behind.seconds == 0.0
