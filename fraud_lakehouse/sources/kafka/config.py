"""A topic as the pipeline declares it, with its connection; and librdkafka's properties for that connection.

No connection is made here. The protocol's own properties (no auto commit, no offset reset, committed records only)
cannot be overridden: exactly once rests on them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline import (
    REGISTRY_FORMATS,
    Field,
    KafkaSource,
    Pipeline,
    Stream,
    Topic,
    default_folder,
    load_pipeline,
)
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.protection import NOT_PROTECTED, Protection, protection_of

SHIPPED_TOPIC = "FRAUD_KAFKA_TOPIC"
"""The variable by which the shipped topic is known in `sources.yml`."""
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
_SERVERS = ("bootstrap.servers", "metadata.broker.list")


@dataclass(frozen=True)
class ChangeFormat:
    """How a connector writes changes: the columns of the row's key, and its modes, as `pipeline.Topic` has them."""

    key: tuple[str, ...] = ()
    key_format: str = ""
    decimals: str = "precise"
    times: str = "adaptive"
    binaries: str = "bytes"


@dataclass(frozen=True)
class TopicConfig:
    """One topic to capture: what is declared of it, and how its cluster is reached.

    Args:
        name: of this unit of capture, in control tables, locks and messages.
        servers: host:port, comma separated; None where its variable is not set.
        config_file: of librdkafka properties, name=value lines.
        topic, table: the topic, and the bronze table of its records.
        format, fields: of its values.
        max_record_bytes: a longer value is not read.
        servers_env, config_file_env, topic_env: the variables that have these.
        aliases: names under which older control rows have this unit.
        stream: the payments that its rows are; None where they are none.
        update_delay: seconds between reads; 0: as records come.
        changes: how values and keys are written, of a change format.
        registry: the URL of the schema registry; None where its variable, `registry_env`, is not set.
        protection: what is done to its sensitive columns.
        optional: whether the topic may be missing as long as nothing of it was ingested.
    """

    name: str
    servers: str | None
    config_file: Path | None
    topic: str
    table: str
    format: str
    fields: tuple[Field, ...]
    max_record_bytes: int
    servers_env: str
    config_file_env: str | None = None
    topic_env: str | None = None
    aliases: tuple[str, ...] = ()
    stream: Stream | None = field(default=None, hash=False)
    update_delay: float = 0.0
    changes: ChangeFormat = ChangeFormat()
    registry: str | None = field(default=None, repr=False)
    registry_env: str | None = None
    protection: Protection = NOT_PROTECTED
    optional: bool = False

    @property
    def renamed(self) -> dict[str, str]:
        """By alias, the name."""
        return dict.fromkeys(self.aliases, self.name)

    @property
    def missing_variable(self) -> str | None:
        """The variable of its connection that is not set: of the servers, or of the registry that its format needs."""
        if not self.servers:
            return self.servers_env
        needs_registry = self.format in REGISTRY_FORMATS or self.changes.key_format == "avro"
        return self.registry_env if needs_registry and not self.registry else None

    @property
    def config_file_setting(self) -> str:
        """What sets the properties file, for messages."""
        return self.config_file_env or f"the variable that config_file_env of {self.name} names in sources.yml"

    @property
    def topic_setting(self) -> str:
        """What sets the topic, for messages."""
        return self.topic_env or f"topic of {self.name} in sources.yml"


def topic_configs(
    pipeline: Pipeline, environment: Mapping[str, str], max_record_bytes: int, update_delay: float = 0.0
) -> list[TopicConfig]:
    """The topics of all declared Kafka sources, in their order; those without a connection included.

    Args:
        environment, max_record_bytes, update_delay: as for `topics_of`.
    """
    return [
        topic
        for source in pipeline.sources.values()
        if isinstance(source, KafkaSource)
        for topic in topics_of(source, pipeline, environment, max_record_bytes, update_delay)
    ]


def topics_of(
    source: KafkaSource,
    pipeline: Pipeline,
    environment: Mapping[str, str],
    max_record_bytes: int,
    update_delay: float,
) -> list[TopicConfig]:
    """The topics of a declared source, in their order.

    The only topic of a source has the source's name, one of several `<source>.<table>`. Each of the two is an
    alias of the other, so that a source may get a second topic.

    Args:
        environment: the environment variables.
        max_record_bytes: FRAUD_MAX_RECORD_BYTES.
        update_delay: FRAUD_UPDATE_DELAY, for a source that has none of its own.
    """
    streams = {one.from_: one for one in pipeline.streams.values() if one.kind == "events"}
    file = environment.get(source.config_file_env or "")
    found = []
    for topic in source.topics:
        names = [source.name, f"{source.name}.{topic.table}"]
        if len(source.topics) > 1:
            names.reverse()
        found.append(
            TopicConfig(
                names[0],
                environment.get(source.servers_env) or None,
                Path(file) if file else None,
                topic.topic,
                topic.table,
                topic.format,
                tuple(topic.fields.values()),
                max_record_bytes,
                source.servers_env,
                source.config_file_env,
                topic.topic_env,
                (names[1], *(["kafka"] if topic.topic_env == SHIPPED_TOPIC else [])),
                streams.get(topic.table),
                update_delay if source.update_delay is None else source.update_delay,
                ChangeFormat(topic.key, topic.key_format, topic.decimals, topic.times, topic.binaries),
                environment.get(source.registry_env or "") or None,
                source.registry_env,
                _protection(source, topic, names[0], environment),
                topic.optional,
            )
        )
    return found


def _protection(source: KafkaSource, topic: Topic, name: str, environment: Mapping[str, str]) -> Protection:
    if not environment.get(source.servers_env):
        return NOT_PROTECTED
    sensitive = {"drop": topic.drop, "mask": topic.mask, "hash": topic.hash}
    return protection_of(name, sensitive, source.hash_key_env, environment)


def shipped_topic(settings: Settings) -> TopicConfig:
    """The topic that the FRAUD_KAFKA_* settings are shorthand for.

    Raises:
        PipelineError: the pipeline folder has mistakes.
        SettingsError: there is no such folder, or it does not declare the topic.
    """
    declared = _shipped_pipeline(default_folder({}).resolve())
    for topic in topic_configs(declared, settings.environment(), settings.max_record_bytes, settings.update_delay):
        if topic.topic_env == SHIPPED_TOPIC:
            return replace(topic, topic=settings.kafka_topic)
    raise SettingsError(
        f"{declared.folder}/sources.yml declares no topic with topic_env: {SHIPPED_TOPIC}",
        "declare it there, as the file of the repository does",
    )


@lru_cache(maxsize=8)
def _shipped_pipeline(folder: Path) -> Pipeline:
    return load_pipeline(folder, {})


def read_properties(path: Path, topic: TopicConfig) -> dict[str, str]:
    """The `name=value` lines of a topic's properties file; blank lines and lines starting with # are left out.

    Raises:
        SettingsError: the file cannot be read, a line has no "=", or a property is not the operator's to set.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{topic.config_file_setting}: cannot read {path}: {error}", "give the path of a readable UTF-8 text file"
        ) from None
    properties: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = stripped.partition("=")
        name, where = name.strip(), f"{topic.config_file_setting}: {path}, line {number}"
        if not separator or not name:
            raise SettingsError(f"{where}: expected name=value", "one librdkafka property a line, # for comments")
        if name in _OURS:
            raise SettingsError(
                f"{where}: {name} cannot be set: exactly-once capture needs it to be {_OURS[name]}", "remove the line"
            )
        if name in _SERVERS:
            raise SettingsError(f"{where}: {name} does not belong here", f"set {topic.servers_env} instead")
        properties[name] = value.strip()
    return properties


def reason_of(error: KafkaException) -> KafkaError:
    """What librdkafka says: its code and text."""
    reason = error.args[0] if error.args else None
    return reason if isinstance(reason, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


class KafkaClients:
    """Makes librdkafka clients with one set of properties and remembers the last error any of them reported.

    Args:
        topic: whose cluster is meant; its `servers` must be set, `config_file` may be.

    Raises:
        SettingsError: no bootstrap servers, or a wrong properties file.
    """

    def __init__(self, topic: TopicConfig) -> None:
        if not topic.servers:
            raise SettingsError(
                f"{topic.servers_env} is not set, and the source {topic.name} needs it",
                "set it to host:port of the Kafka broker, comma separated",
            )
        self.topic = topic
        self.bootstrap: str = topic.servers
        self._file = topic.config_file
        self._extra: dict[str, Any] = dict(read_properties(self._file, topic)) if self._file else {}
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
            file = f"{self.topic.config_file_setting} ({self._file})"
            source = file if self._file else self.topic.servers_env
            raise SettingsError(
                f"{source}: librdkafka refuses the properties: {reason_of(error).str()}",
                "correct or remove the property it names",
            ) from None
