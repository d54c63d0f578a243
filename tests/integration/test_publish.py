"""Features to Apache Kafka: each row once for a `read_committed` consumer, whoever is killed, frozen or rebuilt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sinks.kafka import publisher as publisher_module
from fraud_lakehouse.sinks.kafka import transactions
from fraud_lakehouse.sinks.kafka.background import PublishWorker
from fraud_lakehouse.sinks.kafka.errors import (
    FencedError,
    OutputTopicMissingError,
    PositionUnclearError,
    PublishError,
    TransactionsUnsupportedError,
)
from fraud_lakehouse.sinks.kafka.publisher import Choice, Publisher, publish_features
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import Broker
from tests.patience import PATIENCE
from tests.published import OVER, TUMBLE, Row, add, identity, over_row, read_back, reported, window_row

pytestmark = [pytest.mark.slow, pytest.mark.apache_kafka, pytest.mark.timeout(1200)]
PROCESS = """
import json, sys
from fraud_lakehouse.failpoints import arm_from
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.sinks.kafka import publisher
from fraud_lakehouse.settings import load_settings
point, given = sys.argv[1:]
settings = load_settings(**json.loads(given))
publisher.ROWS = 10
arm_from(point)
try:
    publisher.publish_features(settings, Lake.at(settings.lake))
except publisher.PublishError as error:
    print(type(error).__name__)
"""


class Stand:
    """A lake made by hand and the two topics its features go to."""

    def __init__(self, broker: Broker, folder: Path, partitions: int = 2) -> None:
        self.broker = broker
        self.prefix = f"t-{uuid4().hex[:8]}."
        self.given: dict[str, Any] = {
            "lake": str(folder / "lake"),
            "kafka_bootstrap_servers": broker.bootstrap,
            "publish_features": True,
            "publish_topic_prefix": self.prefix,
        }
        self.lake = Lake.at(self.given["lake"])
        self.rows: dict[str, list[Row]] = {OVER.name: [], TUMBLE.name: []}
        for name in self.rows:
            broker.create(self.prefix + name, partitions)

    @property
    def settings(self) -> Settings:
        return load_settings(**self.given)

    def add(self, numbers: range, **others: Any) -> None:
        """A commit to each table."""
        for topic, make in ((OVER, over_row), (TUMBLE, window_row)):
            rows = [make(number, **others) for number in numbers]
            add(self.lake, topic.table, rows)
            self.rows[topic.name] += rows

    def publish(self) -> int:
        return sum(done.rows for done in publish_features(self.settings, self.lake))

    def check(self) -> None:
        """Every row of the tables is there once, with its values under its key."""
        for name, rows in self.rows.items():
            messages = read_back(self.broker.bootstrap, self.prefix + name)
            assert sorted(reported(messages), key=repr) == sorted(map(identity, rows), key=repr)
            wanted = {identity(row): row for row in rows}
            for message, found in zip(messages, reported(messages), strict=True):
                key, body, _ = message
                assert list(body) == list((OVER if name == OVER.name else TUMBLE).body)
                assert body == {column: _shown(wanted[found][column]) for column in body}
                assert key == (None if body["user_id"] is None else str(body["user_id"]))


def _shown(value: Any) -> Any:
    return value.isoformat(" ") if hasattr(value, "isoformat") else value


@pytest.fixture
def stand(apache_kafka: Broker, tmp_path: Path) -> Stand:
    return Stand(apache_kafka, tmp_path)


@pytest.fixture(autouse=True)
def _small_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "ROWS", 10)


def process(point: str, given: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, point, json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_row_once_in_order_and_a_restart_publishes_nothing(stand: Stand) -> None:
    stand.add(range(35))
    assert stand.publish() == 70
    assert stand.publish() == 0
    stand.add(range(35, 38))
    stand.add(range(2), version=2)
    assert stand.publish() == 10
    stand.check()
    with Publisher(stand.settings, stand.lake) as publisher:
        assert [(done.rows, done.position.published) for done in publisher.step()] == [(0, 40), (0, 40)]
        assert publisher.step() == []
        stand.add(range(40, 41))
        assert [done.rows for done in publisher.step()] == [1, 1]
    times = [
        body["trans_date_trans_time"]
        for key, body, _ in read_back(stand.broker.bootstrap, stand.prefix + OVER.name)
        if key == "1"
    ]
    assert times[:9] == sorted(times[:9]), "a user's rows are in the order of event time"


@pytest.mark.crash
@pytest.mark.parametrize(
    "step, hits",
    [
        ("before_produce", 2),
        ("before_position", 3),
        ("before_commit", 1),
        ("before_commit", 6),
        ("after_commit", 1),
        ("after_commit", 4),
    ],
)
def test_killed_anywhere_each_row_is_there_once(stand: Stand, step: str, hits: int) -> None:
    """The first hit is in the transaction that only begins the position."""
    stand.add(range(25))
    with process(f"publish.{step}:{hits}", stand.given) as killed:
        assert killed.wait(PATIENCE) == -signal.SIGKILL, f"publish.{step} was never reached: {killed.communicate()}"
    stand.add(range(25, 30))
    stand.publish()
    stand.check()
    assert stand.publish() == 0


@pytest.mark.crash
@pytest.mark.parametrize("step", ["before_produce", "before_commit"])
def test_a_frozen_publisher_that_wakes_up_later_publishes_nothing_twice(stand: Stand, step: str) -> None:
    """The lake is seen from two machines: the turns of one machine do not help."""
    stand.add(range(25))
    elsewhere = {**stand.given, "work": f"{stand.given['lake']}-elsewhere"}
    with process(f"publish.{step}:2:stop", elsewhere) as zombie:
        assert os.waitpid(zombie.pid, os.WUNTRACED)[1] & 0xFF == 0x7F, "stopped"
        stand.add(range(25, 30))
        stand.publish()
        stand.check()
        zombie.send_signal(signal.SIGCONT)
        output, problem_found = zombie.communicate(timeout=PATIENCE)
    assert output.split() == [FencedError.__name__], problem_found
    assert stand.publish() == 0
    stand.check()


def test_one_in_this_process_that_was_overtaken_says_so_and_goes_on(stand: Stand) -> None:
    stand.add(range(5))
    with Publisher(stand.settings, stand.lake) as first:
        assert sum(done.rows for done in first.step()) == 10
        stand.add(range(5, 9))
        stand.publish()
        stand.add(range(9, 12))
        with pytest.raises(FencedError, match="stop one of them"):
            first.step()
        assert sum(done.rows for done in first.step()) == 6
    stand.check()


def test_a_table_built_anew_publishes_only_what_differs(stand: Stand) -> None:
    stand.add(range(25))
    stand.publish()
    for name in ("silver", "gold"):
        shutil.rmtree(Path(stand.lake.root) / name, ignore_errors=True)
    rebuilt = [over_row(number) for number in range(1, 30)]  # 0 is gone, 25 to 29 are new, 7 has another value
    rebuilt[6] |= {"user_mean_trans_amt_last_360min": 99.5}
    rebuilt[7] |= {"user_mean_trans_amt_last_360min": rebuilt[7]["user_mean_trans_amt_last_360min"] + 1e-13}
    add(stand.lake, OVER.table, rebuilt)
    add(stand.lake, TUMBLE.table, [window_row(number) for number in range(25)])
    assert stand.publish() == 1 + 5 + 1
    messages = read_back(stand.broker.bootstrap, stand.prefix + OVER.name)
    new = [(headers["trans_num"], "deleted" in headers) for _, _, headers in messages if headers.get("epoch") == "1"]
    assert sorted(new) == [("t00000", True), ("t00007", False), *((f"t000{number}", False) for number in range(25, 30))]
    assert stand.publish() == 0
    add(stand.lake, OVER.table, [over_row(30)])
    assert stand.publish() == 1
    recorded = [(row.event, row.detail["epoch"]) for row in Audit(stand.lake).rows("publish")]
    assert recorded == [*[("publishing_begun", 0)] * 2, *[("publishing_rebuilt", 1)] * 2]


@pytest.mark.crash
def test_killed_while_differences_are_published(stand: Stand) -> None:
    stand.add(range(25))
    stand.publish()
    rebuilt = [over_row(number, user_mean_trans_amt_last_360min=-1.0) for number in range(25)]
    add(stand.lake, OVER.table, rebuilt, mode="overwrite")
    with process("publish.after_commit:2", stand.given) as killed:
        assert killed.wait(PATIENCE) == -signal.SIGKILL
    assert stand.publish() == 5, "twenty were published before it was killed"
    messages = read_back(stand.broker.bootstrap, stand.prefix + OVER.name)
    assert len(messages) == 50
    assert sorted(h["trans_num"] for _, body, h in messages if body["user_mean_trans_amt_last_360min"] == -1.0) == [
        row["trans_num"] for row in rebuilt
    ]
    assert stand.publish() == 0


@pytest.mark.parametrize("choice, again", [("now", 0), ("start", 25), ("topic", 2)])
def test_where_the_topic_cannot_tell_a_person_decides(stand: Stand, choice: Choice, again: int) -> None:
    """Retention removed messages, then the table was built anew: nothing is published until somebody says what."""
    stand.add(range(25))
    stand.publish()
    topic = stand.prefix + OVER.name
    gone = _offset_after(stand, topic, 0, 2)
    [deleted] = stand.broker.admin.delete_records([TopicPartition(topic, 0, gone)]).values()
    deleted.result(PATIENCE)
    left = len(read_back(stand.broker.bootstrap, topic))
    assert left == 23
    add(stand.lake, OVER.table, [over_row(number) for number in range(25)], mode="overwrite")
    with pytest.raises(PositionUnclearError, match=r"of 25 messages 23 are in the topic(?s:.)*publish --from"):
        stand.publish()
    assert len(read_back(stand.broker.bootstrap, topic)) == left
    with Publisher(stand.settings, stand.lake, choice) as publisher:
        publisher.step()
    assert len(read_back(stand.broker.bootstrap, topic)) == left + again
    assert stand.publish() == 0
    add(stand.lake, OVER.table, [over_row(50)])
    assert stand.publish() == 1


def _offset_after(stand: Stand, topic: str, partition: int, count: int) -> int:
    """The offset behind the first `count` messages of a partition."""
    config = {"bootstrap.servers": stand.broker.bootstrap, "group.id": "x", "isolation.level": "read_committed"}
    consumer = Consumer(config | {"enable.partition.eof": True, "log_level": 0})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    offsets: list[int] = []
    while len(offsets) < count:
        message = consumer.poll(60)
        assert message is not None and message.error() is None, "too few messages"
        offsets.append(message.offset())
    consumer.close()
    return offsets[-1] + 1 if offsets else 0


def test_a_topic_that_others_wrote_to_is_not_begun_silently(stand: Stand) -> None:
    stand.add(range(3))
    stand.broker.publish(stand.prefix + OVER.name, [b"{}"])
    with pytest.raises(PositionUnclearError, match="has had records"):
        stand.publish()
    assert reported(read_back(stand.broker.bootstrap, stand.prefix + TUMBLE.name)), (
        "the other topic does not wait for it"
    )


def test_a_missing_topic_is_named_with_the_command_that_makes_it(stand: Stand) -> None:
    stand.add(range(3))
    stand.given["publish_topic_prefix"] = missing = f"absent-{uuid4().hex[:6]}."
    with pytest.raises(OutputTopicMissingError, match=rf"--create --topic {missing}user_trans_amt_last_360min "):
        stand.publish()


def test_a_broker_that_is_away_is_an_error_and_later_none(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "ANSWER_SECONDS", 1.0)
    stand.add(range(3))
    with pytest.raises(PublishError, match="did not accept features"):
        publish_features(load_settings(**stand.given | {"kafka_bootstrap_servers": "127.0.0.1:1"}), stand.lake)
    assert stand.publish() == 6


def test_the_lane_beside_the_cycle_tells_its_trouble_and_goes_on_by_itself(stand: Stand) -> None:
    """The topics come late, then rows: nobody has to start anything again."""
    prefix = f"late-{uuid4().hex[:6]}."
    stand.add(range(3))
    with PublishWorker(load_settings(**stand.given | {"publish_topic_prefix": prefix})) as tier:
        _wait(lambda: tier.problem is not None and "kafka-topics.sh" in tier.problem)
        for name in stand.rows:
            stand.broker.create(prefix + name)
        stand.prefix = prefix
        _wait(lambda: tier.problem is None)
        stand.add(range(3, 6))
        _wait(lambda: len(read_back(stand.broker.bootstrap, prefix + TUMBLE.name)) == 6)
    stand.check()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited for 90 s"
        time.sleep(0.2)


@pytest.mark.kafka
def test_the_embedded_broker_is_refused_before_anything_is_published(kafka: Broker, tmp_path: Path) -> None:
    stand = Stand(kafka, tmp_path, partitions=1)
    stand.add(range(3))
    with pytest.raises(TransactionsUnsupportedError, match="FRAUD_PUBLISH_FEATURES=false"):
        stand.publish()
    assert read_back(kafka.bootstrap, stand.prefix + OVER.name) == []


def test_nothing_is_published_unless_asked(stand: Stand) -> None:
    stand.add(range(3))
    stand.given["publish_features"] = False
    assert stand.publish() == 0
    assert not read_back(stand.broker.bootstrap, stand.prefix + OVER.name)
