"""A transactional producer, and the position that it commits with the messages: both or neither.

The transactional id belongs to the lake: a second process that opens it aborts the first one's transaction, and the
first can commit nothing more. Order in a transaction: messages, position, commit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.sinks.kafka.errors import PublishError, missing_topic, no_metadata, publish_error, refuse, unclear
from fraud_lakehouse.sinks.kafka.feature_topic import Message
from fraud_lakehouse.sinks.kafka.position import Position
from fraud_lakehouse.sources.kafka.config import KafkaClients, reason_of

ANSWER_SECONDS = 15.0
COMMIT_SECONDS = 60.0
_CREATED_SECONDS = 3.0
_AGAIN_SECONDS = 0.2
_UNSETTLED = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
_ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE}


class Transactions:
    """Publishes for one lake. Opened on first use, and again at the next use after an error.

    Args:
        lake_id: identity of the lake.
    """

    def __init__(self, clients: KafkaClients, lake_id: str) -> None:
        self._clients = clients
        self.identity = f"fraud_lakehouse.{lake_id}"
        """The transactional id."""
        self.group = f"fraud_lakehouse_published.{lake_id}"
        """The consumer group whose offsets are the positions; it has no members."""
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None

    def open(self) -> None:
        """Take over publishing: another process of this lake has its transaction aborted and can no longer commit.

        Raises:
            PublishError: the broker is unreachable, has no transactions, or rejects the client.
        """
        if self._producer is not None:
            return
        producer = self._clients.transactional_producer(self.identity)
        try:
            producer.init_transactions(ANSWER_SECONDS)
        except KafkaException as error:
            raise self._error(error, "any topic") from None
        self._producer = producer

    @property
    def is_open(self) -> bool:
        """Whether the producer is open, so that positions read since are valid."""
        return self._producer is not None

    def find(self, topic: str) -> None:
        """Wait for a topic: a broker that creates topics automatically needs a moment.

        Raises:
            OutputTopicMissingError: there is no such topic.
            PublishError: the broker does not respond, or does not show the topic to this user.
        """
        assert self._producer is not None, "open first"
        deadline = time.monotonic() + _CREATED_SECONDS
        while True:
            try:
                found = self._producer.list_topics(topic, ANSWER_SECONDS).topics.get(topic)
                if found is not None and found.error is None and found.partitions:
                    return
                if found is not None and found.error is not None and found.error.code() not in _ABSENT:
                    refuse(found.error)
            except KafkaException as error:
                raise self._error(error, topic) from None
            if time.monotonic() > deadline:
                raise missing_topic(self._clients.bootstrap, topic)
            time.sleep(_AGAIN_SECONDS)

    def position(self, topic: str) -> Position | None:
        """The committed position; None: nothing was ever published. Waits for transactions that are being completed.

        Raises:
            PublishError: the broker does not respond, or this program did not write the position.
        """
        found = self._committed(topic)
        if found.offset < 0:
            return None
        if not found.metadata:
            raise no_metadata(self._clients.bootstrap, topic)
        try:
            return Position.parse(found.metadata, found.offset)
        except (ValueError, TypeError):
            raise unclear(topic, f"the offset of group {self.group} was not written by this program") from None

    def _committed(self, topic: str) -> TopicPartition:
        """The group's offset; retries while a broker that has just started elects the group's coordinator."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                (found,) = self._offsets().committed([TopicPartition(topic, 0)], ANSWER_SECONDS)
                if found.error is not None:
                    refuse(found.error)
            except KafkaException as error:
                if reason_of(error).code() not in _UNSETTLED or time.monotonic() > deadline:
                    raise self._error(error, topic) from None
                time.sleep(_AGAIN_SECONDS)
            else:
                return found

    def is_untouched(self, topic: str) -> bool:
        """Whether the topic never had a record.

        Raises:
            PublishError: the broker does not respond.
        """
        consumer = self._offsets()
        try:
            partitions = consumer.list_topics(topic, ANSWER_SECONDS).topics[topic].partitions
            ends = [
                consumer.get_watermark_offsets(TopicPartition(topic, number), ANSWER_SECONDS)[1]
                for number in partitions
            ]
        except KafkaException as error:
            raise self._error(error, topic) from None
        return not any(ends)

    def publish(self, messages: Mapping[str, Iterable[Message]], positions: Mapping[str, Position]) -> None:
        """Publish messages and positions, by topic, in one transaction.

        Raises:
            PublishError: nothing was published or, if the commit got no response, perhaps all: the position shows it.
        """
        assert self._producer is not None, "open first"
        producer, topic = self._producer, " and ".join(positions)
        try:
            producer.begin_transaction()
            failpoint("publish.before_produce")
            for name, some in messages.items():
                for message in some:
                    self._produce(producer, name, message)
            failpoint("publish.before_position")
            offsets = [
                TopicPartition(name, 0, position.published, position.text()) for name, position in positions.items()
            ]
            producer.send_offsets_to_transaction(offsets, self._offsets().consumer_group_metadata(), ANSWER_SECONDS)
            failpoint("publish.before_commit")
            producer.commit_transaction(COMMIT_SECONDS)
        except KafkaException as error:
            problem = self._error(error, topic)
            self._give_up(producer, is_fatal=reason_of(error).fatal())
            raise problem from None
        except BaseException:
            self._give_up(producer)
            raise
        failpoint("publish.after_commit")

    def close(self) -> None:
        """Close the connections; an open transaction is aborted by the next process that opens, or by the broker."""
        self._producer = None
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _produce(self, producer: Producer, topic: str, message: Message) -> None:
        deadline = time.monotonic() + COMMIT_SECONDS
        while True:
            try:
                producer.produce(topic, message.value, message.key, headers=list(message.headers))
            except BufferError:
                if time.monotonic() > deadline:
                    raise PublishError(
                        f"Kafka at {self._clients.bootstrap} takes no features for {topic}: {self._clients.last_error}",
                        "see the broker's log; publishing is retried, and nothing is published twice",
                    ) from None
                producer.poll(0.1)
            else:
                producer.poll(0)
                return

    def _give_up(self, producer: Producer, *, is_fatal: bool = False) -> None:
        """Abort the open transaction and discard this producer: the next one reads what was committed."""
        self._producer = None
        producer.purge()
        if not is_fatal:
            with suppress(KafkaException):
                producer.abort_transaction(ANSWER_SECONDS)

    def _offsets(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._clients.consumer(self.group)
        return self._consumer

    def _error(self, error: KafkaException, topic: str) -> PublishError:
        if reason_of(error).code() == KafkaError._TIMED_OUT and self._clients.last_error:
            error = KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer: {self._clients.last_error}"))
        return publish_error(error, self._clients.bootstrap, topic, self.identity, self.group)
