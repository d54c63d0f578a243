"""Why features are not published, each with its remedy. None of these errors stops capture, models or alerts."""

from __future__ import annotations

from typing import NoReturn

from confluent_kafka import KafkaError, KafkaException

from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.sources.kafka.config import reason_of


class PublishError(LakehouseError):
    """Features could not be published; pending rows follow when they can be."""

    exit_code = 8


class TransactionsUnsupportedError(PublishError):
    """The broker does not support transactions, or does not store an offset's metadata."""


class OutputTopicMissingError(PublishError):
    """The topic does not exist and the broker does not create topics automatically."""


class PublishNotAllowedError(PublishError):
    """The broker does not authorise this user."""


class FencedError(PublishError):
    """Another process publishes for the same lake; this one's open transaction was aborted."""


class PositionUnclearError(PublishError):
    """It is unknown which rows were published: continuing would publish rows twice, or omit rows."""


_FENCED = {
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,  # the broker forgot an id that was idle for a week
    KafkaError.UNKNOWN_PRODUCER_ID,
}
_REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "WRITE and DESCRIBE on topic {topic}",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "READ on group {group}",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "WRITE and DESCRIBE on transactional id {identity}",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "IDEMPOTENT_WRITE on the cluster (brokers before 2.8)",
}
_UNSUPPORTED = {
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
}
_ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


def publish_error(failure: KafkaException, bootstrap: str, topic: str, identity: str, group: str) -> PublishError:
    """Translate an error of librdkafka into one that names the thing and what to do.

    Args:
        topic: the topic being published; several names if there are several.
        identity: the transactional id.
        group: the consumer group that stores the position.
    """
    reason = reason_of(failure)
    code, text = reason.code(), reason.str()
    if code in _FENCED:
        return FencedError(
            f"publishing to {topic} was taken over by another process of this lake ({text})",
            "nothing is published twice; if this recurs, two processes run on this lake: stop one of them",
        )
    if code in _REFUSED:
        right = _REFUSED[code].format(topic=topic, group=group, identity=identity)
        return PublishNotAllowedError(
            f"Kafka at {bootstrap} does not allow publishing to {topic}: {text}",
            f"grant this user {right} (docs/how-to/publish-features.md has them), or set FRAUD_PUBLISH_FEATURES=false",
        )
    if code in _UNSUPPORTED:
        return TransactionsUnsupportedError(
            f"the broker at {bootstrap} does not support transactions: {text}",
            "publish to Apache Kafka 0.11 or later, or set FRAUD_PUBLISH_FEATURES=false",
        )
    if code in _ABSENT:
        return missing_topic(bootstrap, topic)
    return PublishError(
        f"Kafka at {bootstrap} did not accept features for {topic}: {text}",
        "see the broker's log; publishing is retried, and nothing is published twice",
    )


def refuse(error: KafkaError) -> NoReturn:
    """Raise an error that librdkafka returned as a value."""
    raise KafkaException(error)


def missing_topic(bootstrap: str, topic: str) -> OutputTopicMissingError:
    """The broker responds but has no such topic."""
    return OutputTopicMissingError(
        f"Kafka at {bootstrap} has no topic {topic!r}",
        f"create it: kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {topic} --partitions 1",
    )


def no_metadata(bootstrap: str, topic: str) -> TransactionsUnsupportedError:
    """The broker returned an offset without its metadata."""
    return TransactionsUnsupportedError(
        f"the broker at {bootstrap} lost the metadata committed with the offset of {topic}",
        "publish to a broker that stores it, as Apache Kafka does, or set FRAUD_PUBLISH_FEATURES=false",
    )


def unclear(topic: str, why: str) -> PositionUnclearError:
    """It is unknown which rows were published; a person decides."""
    return PositionUnclearError(
        f"it is unknown which features are in topic {topic}: {why}",
        "decide, then run `fraud-lakehouse publish --from CHOICE`: `now` (all existing rows count as published), "
        "`topic` (what is in the topic counts, the others are published) or `start` (everything is published again)",
    )
