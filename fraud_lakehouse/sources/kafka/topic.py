"""The topic as the broker describes it: its identity, its partitions, where each begins and ends.

Asks the broker and turns every refusal into a typed error that names the broker or topic. Reads no record.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata, NewTopic, OffsetSpec

from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.sources.kafka.config import KafkaClients, reason_of

ANSWER_SECONDS = 8.0
"""How long a broker may take to answer one question."""

HASTY_SECONDS = 2.0
"""The same while nobody may be held up; less where every broker is known to be away."""

_AWAY_SECONDS = 0.2
_POLL_SECONDS = 0.02

_UNSUPPORTED = {KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION}
_ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_LEADERLESS = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError._NOENT,
    KafkaError._WAIT_COORD,
}
_RETRY_SECONDS = 0.2
_NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"


class TopicMissingError(SourceError):
    """The broker answers but has no such topic."""


class RetentionGapError(GapError):
    """The broker deleted records before they were captured."""


class LogTruncatedError(GapError):
    """The log ends before our position: it was truncated, or its topic was deleted and created again."""


class TopicRecreatedError(GapError):
    """The topic's identity changed while it was being read: offsets now mean other records."""


@dataclass(frozen=True)
class KafkaTopic:
    """One topic at one moment.

    Args:
        name: the topic's name.
        cluster_id: the cluster's id.
        topic_id: the topic's id; its name where the broker has no topic ids.
        partitions: how many there are, numbered from 0.
    """

    name: str
    cluster_id: str
    topic_id: str
    partitions: int

    @property
    def identity(self) -> str:
        """What stays the same as long as offsets mean the same records: `kafka:<cluster id>:<topic id>`."""
        return f"kafka:{self.cluster_id}:{self.topic_id}"

    def app_id(self, partition: int) -> str:
        """Name of a partition's position: `kafka:<cluster id>:<topic id>:<partition>`."""
        return f"{self.identity}:{partition}"

    def positions(self, offsets: Mapping[int, int | None]) -> dict[str, int]:
        """Offsets by app_id; partitions without an offset are left out."""
        return {self.app_id(number): offset for number, offset in sorted(offsets.items()) if offset is not None}

    def partition_of(self, app_id: str) -> int | None:
        """The partition a position belongs to; None when it belongs to another topic or cluster."""
        head, _, number = app_id.rpartition(":")
        return int(number) if head == self.identity and number.isdigit() else None


class KafkaSource:
    """Questions about one topic, each answered within 8 s or with a SourceError.

    Args:
        clients: where the admin client comes from.
        topic: the topic's name.
    """

    def __init__(self, clients: KafkaClients, topic: str) -> None:
        self._clients = clients
        self._config = clients.topic
        self._name = topic
        self._admin: AdminClient | None = None
        self._fail_fast = False

    def describe(self) -> KafkaTopic:
        """The topic's identity and partitions, asked now.

        A broker that times out is an error and never "has no topic ids": the identity must not depend on its mood.

        Raises:
            TopicMissingError: the broker has no such topic; the message lists those it has.
            SourceError: broker unreachable, or the topic is not allowed.
        """
        admin = self._connected()
        try:
            requested = admin.describe_topics(TopicCollection([self._name]), request_timeout=self._seconds)
            found = self._answer(requested[self._name])
            topic_id, partitions = str(found.topic_id), len(found.partitions)
        except KafkaException as error:
            if reason_of(error).code() not in _UNSUPPORTED:
                raise self._refused(error) from None
            # Named, the question would create the topic on some brokers: ask for all.
            metadata = self._metadata().topics.get(self._name)
            topic_id, partitions = self._name, len(metadata.partitions) if metadata is not None else 0
        if partitions == 0:
            raise self._missing()
        if topic_id in ("", "None", _NO_TOPIC_ID):
            topic_id = self._name
        return KafkaTopic(self._name, self._cluster_id(admin), topic_id, partitions)

    def create(self, partitions: int = 1) -> None:
        """Create the topic, with the broker's own default of replicas.

        Raises:
            SourceError: the broker refuses or does not answer.
        """
        requested = self._connected().create_topics(
            [NewTopic(self._name, partitions, -1)], request_timeout=ANSWER_SECONDS
        )
        try:
            self._answer(requested[self._name])
        except KafkaException as error:
            if reason_of(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                why = reason_of(error).str()
                raise SourceError(
                    f"Kafka at {self._clients.bootstrap} does not create topic {self._name!r}: {why}",
                    "create it with the broker's own tools",
                ) from None

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Where committed records end: the next offset by partition, as the broker says (see `demo/kafka.py`)."""
        return self._offsets(partitions, OffsetSpec.latest())

    def high_watermarks(self, partitions: Iterable[int]) -> dict[int, int]:
        """Where each partition ends, open transactions included, by partition."""
        return self._offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)

    def starts(self, partitions: Iterable[int]) -> dict[int, int]:
        """The earliest offset the broker still has, by partition."""
        return self._offsets(partitions, OffsetSpec.earliest())

    def unreachable(self, seconds: float) -> SourceError:
        """The error for a broker that does not answer; the next question connects anew.

        In haste the client is kept: it goes on connecting while others are served.
        """
        if self._admin is not None:
            self._admin.poll(0)  # lets it report why
            if not self._fail_fast:
                self._admin = None
        cause = f" ({self._clients.last_error})" if self._clients.last_error else ""
        return SourceError(
            f"no Kafka broker answers at {self._clients.bootstrap} within {seconds:g} s{cause}",
            f"check {self._config.servers_env}, the network and, for SASL or TLS, {self._config.config_file_setting}",
        )

    def set_blocking(self, blocking: bool) -> None:
        """Whether a question may wait for a broker that is away, which holds up whoever asks."""
        self._fail_fast = not blocking

    def close(self) -> None:
        """Let the connection go, unless it is still being made in haste."""
        if not (self._fail_fast and self._clients.all_down):
            self._admin = None

    @property
    def _seconds(self) -> float:
        if not self._fail_fast:
            return ANSWER_SECONDS
        return _AWAY_SECONDS if self._clients.all_down else HASTY_SECONDS

    def _connected(self) -> AdminClient:
        if self._admin is None:
            self._clients.forget_error()
            self._admin = self._clients.admin()
        return self._admin

    def _cluster_id(self, admin: AdminClient) -> str:
        try:
            found = self._answer(admin.describe_cluster(request_timeout=self._seconds)).cluster_id
        except KafkaException as error:
            if reason_of(error).code() not in _UNSUPPORTED:
                raise self._refused(error) from None
            found = self._metadata().cluster_id
        return str(found) if found else "unnamed-cluster"

    def _offsets(
        self,
        partitions: Iterable[int],
        spec: OffsetSpec,
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> dict[int, int]:
        wanted = {TopicPartition(self._name, partition): spec for partition in partitions}
        if not wanted:
            return {}
        deadline = time.monotonic() + self._seconds
        while True:
            requested = self._connected().list_offsets(wanted, isolation_level=isolation, request_timeout=self._seconds)
            try:
                return {place.partition: int(self._answer(answer).offset) for place, answer in requested.items()}
            except KafkaException as error:
                if reason_of(error).code() not in _LEADERLESS:
                    raise self._refused(error) from None
                if time.monotonic() > deadline:
                    raise self.unreachable(self._seconds) from None
                self.describe()  # the leader is moving, the broker is down, or the topic is gone: which?
                time.sleep(_RETRY_SECONDS)

    def _metadata(self) -> ClusterMetadata:
        try:
            return self._connected().list_topics(timeout=self._seconds)
        except KafkaException as error:
            raise self._refused(error) from None

    def _answer(self, future: Future[Any]) -> Any:
        started = time.monotonic()
        while not future.done():
            if time.monotonic() - started > self._seconds + 1:
                raise self.unreachable(self._seconds)
            if self._fail_fast and self._admin is not None:
                self._admin.poll(0)  # lets it report that everybody is away
                if self._clients.all_down and time.monotonic() - started > _AWAY_SECONDS:
                    raise self.unreachable(_AWAY_SECONDS)
            wait([future], _POLL_SECONDS if self._fail_fast else self._seconds)
        found = future.result()
        self._clients.all_down = False
        return found

    def _refused(self, error: KafkaException) -> SourceError:
        reason = reason_of(error)
        code = reason.code()
        if code in _ABSENT:
            return self._missing()
        if code in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE):
            return self.unreachable(self._seconds)
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
            return SourceError(
                f"Kafka at {self._clients.bootstrap} does not let us describe topic {self._name!r}: {reason.str()}",
                f"grant DESCRIBE and READ on the topic to the user of {self._config.config_file_setting}",
            )
        return SourceError(
            f"Kafka at {self._clients.bootstrap} refuses topic {self._name!r}: {reason.str()}",
            f"see the broker's log; the client's properties come from {self._config.config_file_setting}",
        )

    def _missing(self) -> TopicMissingError:
        names = self._metadata().topics
        # What has just been made may be listed while it cannot be described yet.
        shown = sorted(name for name in names if not name.startswith("__") and name != self._name)
        there = ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")
        return TopicMissingError(
            f"Kafka at {self._clients.bootstrap} has no topic {self._name!r}; there: {there or 'no other'}",
            f"create the topic, or set {self._config.topic_setting} to one of those",
        )


def verify_identity(before: KafkaTopic, now: KafkaTopic, unit: str) -> None:
    """Raise unless two descriptions are of the same topic of the same cluster.

    Args:
        unit: the topic's name as a unit of capture.

    Raises:
        TopicRecreatedError: they are not, or partitions have vanished.
    """
    if before.identity != now.identity or now.partitions < before.partitions:
        raise TopicRecreatedError(
            f"Kafka topic {before.name!r} is another one now: it was {before.identity} with {before.partitions} "
            f"partitions, it is {now.identity} with {now.partitions}",
            f"if that was intended, accept the new topic: fraud-lakehouse accept-source {unit}",
        )
