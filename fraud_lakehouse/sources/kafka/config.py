"""Client properties: what librdkafka is told, from the settings and the operator's properties file.

No connection is made here. The protocol's own properties (no auto commit, no offset reset, committed records only)
cannot be overridden: exactly once rests on them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.settings import Settings

GROUP = "fraud_lakehouse"
_LOG = logging.getLogger("fraud_lakehouse.librdkafka")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False  # a refused connection is told once, as our error, not as a stream of lines on stderr

_Client = TypeVar("_Client", Consumer, AdminClient, Producer)

_OURS: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
}
_DEFAULTS: dict[str, Any] = {
    "group.id": GROUP,  # for commits that dashboards read; the group is never joined
    # The demo's broker answers a waiting fetch only at steps of this: 500 ms cost 250 ms of latency, 100 ms 8 ms.
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 100,
    "fetch.queue.backoff.ms": 5,  # the default: no fetch for a second once the queue was full, whoever empties it
    "fetch.max.bytes": 4_194_304,
    "queued.min.messages": 200_000,  # fetched on while a batch is written
    "queued.max.messages.kbytes": 65_536,
    "check.crcs": True,
}
_ELSEWHERE = {
    "bootstrap.servers": "FRAUD_KAFKA_BOOTSTRAP_SERVERS",
    "metadata.broker.list": "FRAUD_KAFKA_BOOTSTRAP_SERVERS",
}


def read_properties(path: Path) -> dict[str, str]:
    """The `name=value` lines of a file; blank lines and lines starting with # are left out.

    Raises:
        SettingsError: the file cannot be read, a line has no "=", or a property is not the operator's to set.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"FRAUD_KAFKA_CONFIG_FILE: cannot read {path}: {error}", "give the path of a readable UTF-8 text file"
        ) from None
    properties: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = stripped.partition("=")
        name, where = name.strip(), f"FRAUD_KAFKA_CONFIG_FILE: {path}, line {number}"
        if not separator or not name:
            raise SettingsError(f"{where}: expected name=value", "one librdkafka property a line, # for comments")
        if name in _OURS:
            raise SettingsError(
                f"{where}: {name} cannot be set: exactly-once capture needs it to be {_OURS[name]}", "remove the line"
            )
        if name in _ELSEWHERE:
            raise SettingsError(f"{where}: {name} does not belong here", f"set {_ELSEWHERE[name]} instead")
        properties[name] = value.strip()
    return properties


def reason_of(error: KafkaException) -> KafkaError:
    """What librdkafka says: its code and text."""
    reason = error.args[0] if error.args else None
    return reason if isinstance(reason, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


@dataclass(frozen=True)
class TopicConfig:
    """A topic that is captured."""

    name: str
    servers: str
    config_file: Path | None
    topic: str
    table: str
    format: str
    fields: tuple[Field, ...]
    max_record_bytes: int
    servers_env: str = "FRAUD_KAFKA_BOOTSTRAP_SERVERS"
    update_delay: float = 0.0


class KafkaClients:
    """Makes librdkafka clients with one set of properties and remembers the last error any of them reported.

    Args:
        settings: `kafka_bootstrap_servers` must be set; `kafka_config_file` may be.

    Raises:
        SettingsError: no bootstrap servers, or a wrong properties file.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.kafka_bootstrap_servers:
            raise SettingsError(
                "FRAUD_KAFKA_BOOTSTRAP_SERVERS is not set", "set it to host:port of the Kafka broker, comma separated"
            )
        self.bootstrap: str = settings.kafka_bootstrap_servers
        self.max_record_bytes = settings.max_record_bytes
        self._file = settings.kafka_config_file
        self._extra: dict[str, Any] = dict(read_properties(self._file)) if self._file else {}
        self.last_error = ""
        self.all_down = False
        """Whether a client found every broker away since the last answer."""

    def consumer(self, group: str | None = None) -> Consumer:
        """A consumer that never joins a group, commits nothing by itself and reports the end of each partition.

        Args:
            group: whose offsets it asks for, whatever the properties file says; default: the file's, else `GROUP`.
        """
        return self._make(Consumer, _DEFAULTS, _OURS | ({"group.id": group} if group else {}))

    def uncommitted_consumer(self) -> Consumer:
        """As `consumer`, for inspecting records that may never be committed; none of them is ingested."""
        return self._make(Consumer, _DEFAULTS, _OURS | {"isolation.level": "read_uncommitted"})

    def admin(self) -> AdminClient:
        """A client for metadata, identities and offsets."""
        return self._make(AdminClient, {}, {})

    def producer(self) -> Producer:
        """An idempotent producer with batches for throughput."""
        defaults = {"linger.ms": 20, "compression.type": "lz4", "queue.buffering.max.messages": 200_000}
        return self._make(Producer, defaults, {"enable.idempotence": True})

    def transactional_producer(self, identity: str) -> Producer:
        """A producer of transactions; keys go to the partitions that Java's clients choose for them."""
        defaults = {"linger.ms": 5, "compression.type": "lz4", "partitioner": "murmur2_random"}
        return self._make(Producer, defaults, {"enable.idempotence": True, "transactional.id": identity})

    def forget_error(self) -> None:
        """Start a new wait: errors reported before it do not explain it."""
        self.last_error = ""

    def _remember(self, error: Any) -> None:
        is_summary = error.code() == KafkaError._ALL_BROKERS_DOWN
        self.all_down |= is_summary
        if not (is_summary and self.last_error):  # why a broker is away says more
            self.last_error = str(error.str())

    def _make(self, kind: type[_Client], defaults: dict[str, Any], ours: dict[str, Any]) -> _Client:
        base: dict[str, Any] = {"bootstrap.servers": self.bootstrap, "error_cb": self._remember}
        config = base | defaults | self._extra | ours
        try:
            return kind(config, logger=_LOG)
        except KafkaException as error:
            source = f"FRAUD_KAFKA_CONFIG_FILE ({self._file})" if self._file else "FRAUD_KAFKA_BOOTSTRAP_SERVERS"
            raise SettingsError(
                f"{source}: librdkafka refuses the properties: {reason_of(error).str()}",
                "correct or remove the property it names",
            ) from None
