"""What Kafka capture must do on every broker; test modules run it on theirs by giving the fixture `broker`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.demo.replay import replay
from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.sources.kafka.capture import KafkaBatch, KafkaCapture
from fraud_lakehouse.sources.kafka.topic import TopicMissingError, TopicRecreatedError
from tests.fixtures_kafka import CARD_SCHEMA, Broker, card
from tests.patience import PATIENCE


def drain(capture: KafkaCapture, positions: dict[str, int], max_rows: int = 1000) -> list[KafkaBatch]:
    """All batches after `positions`, which moves along as it would in the lake."""
    batches = []
    while (batch := capture.read(dict(positions), max_rows)) is not None:
        assert 0 < batch.frame.height <= max_rows
        assert batch.frame.schema == pl.Schema(CARD_SCHEMA)
        positions.update(batch.positions)
        batches.append(batch)
    return batches


def drain_for_ever(capture: KafkaCapture, positions: dict[str, int]) -> None:
    """Read until it fails; a batch is a failure of another kind."""
    while capture.read(positions, 10) is None:
        pass
    pytest.fail("handed out records")


def offsets(batches: list[KafkaBatch]) -> list[tuple[int, int]]:
    return [row for batch in batches for row in batch.frame.select("_partition", "_offset").iter_rows()]


class CaptureContract:
    """Exactly once, drained, bounded, fail closed."""

    deletes_under_a_reader = True

    @pytest.fixture
    def topic(self, broker: Broker) -> str:
        return broker.new_topic(3)

    @pytest.fixture
    def capture(self, broker: Broker, topic: str) -> Iterator[KafkaCapture]:
        with KafkaCapture(broker.settings(topic)) as found:
            yield found

    def test_empty_topic_is_drained_and_named_by_its_identity(self, capture: KafkaCapture) -> None:
        capture.preflight()
        assert capture.read({}, 100) is None
        assert capture.lag().rows == 0
        app_ids = capture.partitions()
        assert [app_id.rpartition(":")[2] for app_id in app_ids] == ["0", "1", "2"]
        kind, cluster, topic_id, _ = app_ids[0].split(":")
        assert kind == "kafka" and cluster and topic_id and topic_id != capture.topic.name

    def test_without_transactions_none_is_open(self, broker: Broker, capture: KafkaCapture) -> None:
        broker.publish(capture.topic.name, [encode(card(n)) for n in range(3)], 1)
        assert capture.open_transactions() == []

    def test_ends_are_confirmed_only_where_nothing_is_left(self, broker: Broker, capture: KafkaCapture) -> None:
        assert capture.confirmed_ends() is None
        assert capture.read({}, 100) is None
        assert list((capture.confirmed_ends() or {}).values()) == [0, 0, 0]
        broker.publish(capture.topic.name, [encode(card(n)) for n in range(3)], 1)
        positions: dict[str, int] = {}
        while not positions:
            batch = capture.read(positions, 2)
            assert (batch is None) == (capture.confirmed_ends() is not None)
            positions.update(batch.positions if batch else {})
        assert capture.confirmed_ends() is None
        drain(capture, positions)
        assert list((capture.confirmed_ends() or {}).values()) == [0, 3, 0]
        capture.close()
        assert capture.confirmed_ends() is None

    def test_every_record_once_in_bounded_batches(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        for partition in range(3):
            broker.publish(topic, [encode(card(3 * n + partition)) for n in range(700)], partition)
        assert capture.lag({}).rows == 2100
        positions: dict[str, int] = {}
        batches = drain(capture, positions, max_rows=500)
        assert sorted(offsets(batches)) == [(p, o) for p in range(3) for o in range(700)]
        assert {row for batch in batches for row in batch.frame["trans_num"]} == {f"{n:032x}" for n in range(2100)}
        assert sorted(positions.values()) == [700, 700, 700]
        assert batches[0].first.keys() <= batches[0].positions.keys()
        assert batches[0].newest_timestamp is not None
        assert capture.lag(positions).rows == capture.lag().rows == 0
        assert capture.read(positions, 500) is None

    def test_a_batch_says_whether_more_is_there(self, broker: Broker) -> None:
        topic = broker.new_topic(1)
        broker.publish(topic, [encode(card(n)) for n in range(25)], 0)
        with KafkaCapture(broker.settings(topic)) as capture:
            positions: dict[str, int] = {}
            batches = []
            while not batches or batches[-1].more:
                batch = capture.read(dict(positions), 10, fail_fast=bool(batches))
                assert batch is not None
                positions.update(batch.positions)
                batches.append(batch)
            assert capture.read(positions, 10) is None
        assert offsets(batches) == [(0, offset) for offset in range(25)]

    def test_same_position_gives_the_same_records_again(
        self, broker: Broker, topic: str, capture: KafkaCapture
    ) -> None:
        broker.publish(topic, [encode(card(n)) for n in range(30)], 1)
        first = capture.read({}, 20)
        again = capture.read({}, 20)  # as after a failed commit
        assert first is not None and again is not None
        assert first.frame.equals(again.frame) and first.positions == again.positions
        rest = drain(capture, dict(first.positions))
        assert offsets(rest) == [(1, offset) for offset in range(20, 30)]

    def test_another_process_continues_at_the_position(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        broker.publish(topic, [encode(card(n)) for n in range(10)], 2)
        positions: dict[str, int] = {}
        assert len(offsets(drain(capture, positions))) == 10
        broker.publish(topic, [encode(card(n)) for n in range(10, 15)], 2)
        with KafkaCapture(broker.settings(topic)) as other:
            assert other.lag(positions).rows == 5
            assert offsets(drain(other, positions)) == [(2, offset) for offset in range(10, 15)]

    def test_acknowledged_record_is_never_taken_for_drained(
        self, broker: Broker, topic: str, capture: KafkaCapture
    ) -> None:
        positions: dict[str, int] = {}
        for number in range(10):
            broker.publish(topic, [encode(card(number))] * (1 + number % 3), number % 3)
            assert sum(batch.frame.height for batch in drain(capture, positions)) == 1 + number % 3

    def test_wait_wakes_on_a_record(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        assert capture.wait(60)  # nothing read so far: read will tell
        assert capture.read({}, 10) is None
        started = time.monotonic()
        assert not capture.wait(0.3)
        assert 0.2 < time.monotonic() - started < 2
        broker.publish(topic, [encode(card(1))])
        started = time.monotonic()
        assert capture.wait(60) and capture.wait(60)
        batch = capture.read({}, 10)
        assert time.monotonic() - started < 5
        assert batch is not None and batch.frame.height == 1

    def test_bad_records_pass_with_their_reason(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        values = [encode(card(1)), b"{", None, encode(card(2)).replace(b"82.55", b'"a"'), encode(card(3))]
        broker.publish(topic, values)
        batch = capture.read({}, 100)
        assert batch is not None
        assert batch.frame["_raw"].to_list() == [None, values[1], None, values[3], None]
        reasons = batch.frame["_error"].to_list()
        assert [reason is None for reason in reasons] == [True, False, False, False, True]
        assert reasons[3] == "$.amt: expected float, got str"

    def test_partitions_come_in_the_order_of_arrival(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        for partition in (2, 0, 1):
            for number in range(50):
                broker.publish(topic, [encode(card(number))] * 4, partition, 1_700_000_000_000 + 1000 * number)
        batches = drain(capture, {}, max_rows=60)
        times = [moment for batch in batches for moment in batch.frame["_timestamp"]]
        assert len(times) == 600 and times == sorted(times)

    def test_bytes_bound_a_batch_too(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        broker.publish(topic, [encode(card(n)) for n in range(3000)])
        assert capture.read({}, 10_000, max_bytes=1) is not None
        assert sorted(offsets(drain(capture, {}))) == [(0, offset) for offset in range(3000)]

    def test_position_beyond_the_log_fails_closed(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        broker.publish(topic, [encode(card(1))])
        app_id = capture.partitions()[0]
        for _ in range(2):  # and again: no second call skips it
            with pytest.raises(GapError, match=r"partition 0: our next offset 5000 is beyond the end of the log, 1"):
                capture.read({app_id: 5000}, 10)
        batch = capture.read({app_id: 0}, 10)
        assert batch is not None and batch.frame.height == 1

    def test_topic_created_again_fails_closed(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        broker.publish(topic, [encode(card(1))])
        positions: dict[str, int] = {}
        if self.deletes_under_a_reader:
            assert len(offsets(drain(capture, positions))) == 1
        identity = capture.topic.identity
        broker.delete(topic)
        create_when_gone(broker, topic)
        broker.publish(topic, [encode(card(number)) for number in range(2, 5)])
        with pytest.raises(TopicRecreatedError, match="is another one now"):
            capture.partitions()
        # A consumer may go on for up to REFRESH_SECONDS before it is asked again: it must hand out nothing new.
        with pytest.raises((GapError, SourceError)):
            drain_for_ever(capture, positions)
        with KafkaCapture(broker.settings(topic)) as accepted:
            assert accepted.topic.identity != identity
            assert len(offsets(drain(accepted, dict(positions)))) == 3  # positions of another topic are ignored

    def test_missing_topic_names_those_there(self, broker: Broker, topic: str) -> None:
        with (
            KafkaCapture(broker.settings("no-such-topic")) as capture,
            pytest.raises(TopicMissingError, match="has no topic 'no-such-topic'; there: "),
        ):
            capture.preflight()
        assert "no-such-topic" not in broker.admin.list_topics(timeout=60).topics  # asking did not create it

    def test_group_offsets_are_for_dashboards_only(self, broker: Broker, topic: str, capture: KafkaCapture) -> None:
        broker.publish(topic, [encode(card(n)) for n in range(4)])
        capture.commit_group({})  # before anything was read: nothing to say
        positions: dict[str, int] = {}
        drain(capture, positions)
        capture.commit_group(positions)
        with KafkaCapture(broker.settings(topic)) as other:
            assert len(offsets(drain(other, {}))) == 4

    def test_replay_creates_the_topic_and_capture_reads_it_back(self, broker: Broker, tmp_path: Path) -> None:
        path = write_sparkov(tmp_path, 25)
        name = f"replayed-{time.time_ns()}"
        assert replay(broker.settings("other"), path, topic=name).published == 25
        with KafkaCapture(broker.settings(name)) as capture:
            (batch,) = drain(capture, {})
        assert batch.frame["_error"].null_count() == 25
        assert batch.frame["trans_num"].to_list() == [f"{n:032x}" for n in range(25)]


SPARKOV_HEADER = (
    ",trans_date_trans_time,cc_num,merchant,category,amt,first,last,gender,street,city,state,zip,lat,long,city_pop,job,"
    "dob,trans_num,unix_time,merch_lat,merch_long,is_fraud"
)


def sparkov_line(number: int, **others: str) -> str:
    """One line of a Sparkov file; `others` replaces values by column."""
    fields = dict.fromkeys(SPARKOV_HEADER.split(","), "x")
    fields |= {
        "": str(number),
        "trans_date_trans_time": f"2019-01-01 00:{number // 60 % 60:02}:{number % 60:02}",
        "cc_num": "2703186189652095",
        "merchant": chr(34) + "fraud_Rippin, Kub and Mann" + chr(34),
        "category": "misc_net",
        "amt": "4.97",
        "zip": "28654",
        "dob": "1988-03-09",
        "trans_num": f"{number:032x}",
        "is_fraud": "0",
    }
    return ",".join((fields | others).values())


def write_sparkov(folder: Path, rows: int) -> Path:
    """A Sparkov file of so many good rows."""
    path = folder / "sparkov.csv"
    path.write_text("\n".join([SPARKOV_HEADER, *(sparkov_line(number) for number in range(rows))]) + "\n")
    return path


def create_when_gone(broker: Broker, topic: str) -> None:
    """Create a topic that is being deleted as soon as the broker has forgotten it."""
    deadline = time.monotonic() + PATIENCE
    while topic in broker.admin.list_topics(timeout=60).topics and time.monotonic() < deadline:
        time.sleep(0.05)
    broker.create(topic, 3)
