"""Facts about a Kafka cluster: its topics, and a summary of the last records of each.

Joins no consumer group and commits no offsets. A sample is limited in records, bytes and time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fraud_lakehouse.discovery.facts import Cluster, Topic
from fraud_lakehouse.discovery.json_fields import topic_of
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.kafka.config import KafkaClients, TopicConfig, reason_of
from fraud_lakehouse.sources.kafka.topic import ANSWER_SECONDS, KafkaSource

_TOPIC_SECONDS = 8.0
_TOPIC_BYTES = 8 * 1024**2
_POLL_SECONDS = 0.2
_INTERNAL = ("__", "_schemas", "_confluent", "connect-configs", "connect-offsets", "connect-status")

Report = Callable[[SourceError], None]


def read_cluster(
    variable: str, servers: str, config_variable: str, config_file: str, sample: int, report: Report
) -> Cluster:
    """The facts about a cluster.

    Args:
        variable, config_variable: the environment variables of its servers and of its properties file.
        sample: maximum number of records to sample per topic.
        report: called with the error of a topic that cannot be read.

    Raises:
        SourceError, SettingsError: the cluster cannot be reached.
    """
    clients = _clients(variable, servers, config_variable, config_file)
    topics: list[Topic] = []
    consumer = clients.consumer()
    try:
        for name, partitions in sorted(_topics(clients).items()):
            try:
                topics.append(topic_of(name, partitions, _sample(clients, consumer, name, partitions, sample)))
            except SourceError as error:
                report(error)
    finally:
        consumer.close()
    return Cluster(variable, config_variable, tuple(topics))


def _clients(variable: str, servers: str, config_variable: str, config_file: str) -> KafkaClients:
    file = Path(config_file) if config_file else None
    return KafkaClients(
        TopicConfig(
            name="discover",
            servers=servers,
            config_file=file,
            topic="",
            table="",
            format="json",
            fields=(),
            max_record_bytes=_TOPIC_BYTES,
            servers_env=variable,
            config_file_env=config_variable or None,
        )
    )


def _topics(clients: KafkaClients) -> Mapping[str, int]:
    """The topics that are not internal, with their partitions."""
    try:
        found = clients.admin().list_topics(timeout=ANSWER_SECONDS).topics
    except KafkaException as error:
        cause = clients.last_error or reason_of(error).str()
        raise SourceError(
            f"no Kafka broker answers at {clients.bootstrap} within {ANSWER_SECONDS:g} s ({cause})",
            f"check {clients.topic.servers_env}, the network and, for SASL or TLS, {clients.topic.config_file_setting}",
        ) from None
    return {name: len(one.partitions) for name, one in found.items() if not name.startswith(_INTERNAL)}


def _sample(clients: KafkaClients, consumer: Consumer, topic: str, partitions: int, most: int) -> list[bytes | None]:
    """The last values of a topic.

    Raises:
        SourceError: it cannot be read.
    """
    source = KafkaSource(clients, topic)
    starts, ends = source.starts(range(partitions)), source.ends(range(partitions))
    share = -(-most // max(partitions, 1))
    # A broker may report the first offset of its last batch as the end, so partitions that seem empty are read too.
    offsets = {number: max(starts[number], ends[number] - share) for number in starts}
    consumer.assign([TopicPartition(topic, number, offset) for number, offset in offsets.items()])
    values: dict[int, list[bytes | None]] = {number: [] for number in offsets}
    ended: set[int] = set()
    size, deadline = 0, time.monotonic() + _TOPIC_SECONDS
    try:
        while len(ended) < len(offsets) and size < _TOPIC_BYTES and time.monotonic() < deadline:
            message = consumer.poll(_POLL_SECONDS)
            if message is None:
                continue
            number, error, value = message.partition(), message.error(), message.value()
            assert number is not None
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise SourceError(
                        f"topic {topic!r} of Kafka at {clients.bootstrap} cannot be read: {error.str()}",
                        f"grant READ on it to the user of {clients.topic.config_file_setting}, or see the broker's log",
                    )
                ended.add(number)
            elif number not in ended:
                values[number].append(value)
                size += len(value or b"")
                if len(values[number]) >= share:
                    ended.add(number)
    finally:
        consumer.unassign()
    return [value for found in values.values() for value in found]
