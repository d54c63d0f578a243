"""The sources of the pipeline that are there: those whose connection is set, with everything that they need.

The variables FRAUD_POSTGRES_* and FRAUD_KAFKA_* are shorthand for the two shipped sources. Nothing is connected here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import SecretStr

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline import KafkaSource, Pipeline, PostgresSource, Topic, default_folder, load_pipeline
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.config import TopicConfig, topic_configs, topics_of
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.names import bronze_name
from fraud_lakehouse.sources.protection import Protection, protection_of
from fraud_lakehouse.sql_text import qualified

SourceConfig = PostgresConfig | TopicConfig
_OF_CHANGES = ("_changes", "_history")
"""Endings of the silver tables made of a topic of change events."""


@dataclass(frozen=True)
class DeclaredSource:
    """A database or topic of the pipeline, whether or not its connection is set.

    Args:
        name: a topic of several is named `<source>.<table>`.
        kind: `postgres` or `kafka`.
        variable: the environment variable of its connection.
        tables: its bronze tables, as far as the pipeline names them; those of streams first.
        config: None where its connection is not set.
    """

    name: str
    kind: Literal["postgres", "kafka"]
    variable: str
    tables: tuple[str, ...]
    config: SourceConfig | None = field(hash=False)


def declared_sources(settings: Settings, pipeline: Pipeline | None = None) -> list[DeclaredSource]:
    """The sources of the pipeline, in its order.

    Args:
        pipeline: default: that of the settings.

    Raises:
        PipelineError: the pipeline folder has mistakes. SettingsError: there is none.
    """
    variables = settings.variables()
    pipeline = pipeline or declared(settings)
    found = []
    for source in pipeline.sources.values():
        is_there = source.is_present(variables)
        if isinstance(source, PostgresSource):
            database = _database(source, settings, variables, pipeline) if is_there else None
            tables = _tables_of(source, pipeline)
            found.append(DeclaredSource(source.name, "postgres", source.dsn_env, tables, database))
        else:
            found += [
                DeclaredSource(
                    topic.name,
                    "kafka",
                    topic.missing_variable or topic.servers_env,
                    (topic.table,),
                    None if topic.missing_variable else topic,
                )
                for topic in topics_of(source, pipeline, variables, settings.max_record_bytes, settings.update_delay)
            ]
    return found


def configured_sources(settings: Settings, pipeline: Pipeline | None = None) -> dict[str, SourceConfig]:
    """By name, the databases and topics that are captured: those whose connection is set.

    Raises:
        PipelineError, SettingsError: as `declared_sources`.
    """
    there = declared_sources(settings, pipeline)
    return {source.name: source.config for source in there if source.config is not None}


def declared(settings: Settings) -> Pipeline:
    """The pipeline of the settings.

    Raises:
        PipelineError: its files have mistakes. SettingsError: there is no pipeline folder.
    """
    variables = settings.variables()
    return load_pipeline(default_folder(variables), variables)


def declared_topics(settings: Settings) -> list[TopicConfig]:
    """The topics that the pipeline declares, those without a connection included.

    Raises:
        PipelineError, SettingsError: as `declared`.
    """
    return topic_configs(declared(settings), settings.variables(), settings.max_record_bytes, settings.update_delay)


def is_live(configs: Iterable[SourceConfig]) -> bool:
    """Whether a live cycle is needed: for a source without an update delay."""
    return any(config.update_delay == 0 for config in configs)


def source_of(table: str, pipeline: Pipeline) -> str | None:
    """The source whose bronze table a stream's table is: the one of its topic, or a database.

    Of databases one that lists it, else the one with the longest prefix of it; one that lists its tables has no others.
    Of several the first counts.
    """
    fitting: dict[str, tuple[bool, int]] = {}
    for source in pipeline.sources.values():
        if isinstance(source, KafkaSource):
            if any(topic.table == table for topic in source.topics):
                return source.name
            continue
        is_listed = table in _listed(source, pipeline)
        if is_listed or (not source.tables and table.startswith(source.prefix)):
            fitting[source.name] = (is_listed, len(source.prefix))
    return max(fitting, key=fitting.__getitem__, default=None)


def postgres_source(settings: Settings, name: str | None = None) -> PostgresConfig:
    """A database.

    Args:
        name: default: the only one there is.

    Raises:
        SettingsError: there is none, none of that name, or several and no name.
    """
    config = _chosen([one for one in declared_sources(settings) if one.kind == "postgres"], name, "PostgreSQL source")
    assert isinstance(config, PostgresConfig)
    return config


def topic_source(settings: Settings, name: str | None = None) -> TopicConfig:
    """A topic; otherwise as `postgres_source`."""
    config = _chosen([one for one in declared_sources(settings) if one.kind == "kafka"], name, "Kafka source")
    assert isinstance(config, TopicConfig)
    return config


def source_named(settings: Settings, name: str) -> SourceConfig:
    """A source; otherwise as `postgres_source`."""
    return _chosen(declared_sources(settings), name, "source")


def _chosen(declared: Sequence[DeclaredSource], name: str | None, what: str) -> SourceConfig:
    named = [one for one in declared if name in (None, one.name)]
    there = [one.config for one in named if one.config is not None]
    if len(there) == 1:
        return there[0]
    if there:
        raise SettingsError(f"there are several {what}s", f"name one of: {', '.join(one.name for one in there)}")
    if named:
        variables = " or ".join(dict.fromkeys(one.variable for one in named))
        which = "" if name is None else f" {name}"
        raise SettingsError(f"{variables} is not set, so there is no {what}{which}", "set it (see .env.example)")
    known = ", ".join(one.name for one in declared)
    problem = f"there is no {what} {name}" if name else f"sources.yml declares no {what}"
    raise SettingsError(problem, f"name one of: {known}" if known else "declare one in sources.yml")


def _database(
    source: PostgresSource, settings: Settings, variables: Mapping[str, str], pipeline: Pipeline
) -> PostgresConfig:
    return PostgresConfig(
        name=source.name,
        dsn=SecretStr(variables[source.dsn_env]),
        slot=source.slot,
        publication=source.publication,
        dsn_env=source.dsn_env,
        tables_env=source.tables_env,
        tables=source.tables,
        prefix=source.prefix,
        reserved=_reserved(pipeline),
        update_delay=settings.update_delay if source.update_delay is None else source.update_delay,
        protections=_protections(source, variables, _reserved(pipeline)),
    )


def _protections(
    source: PostgresSource, variables: Mapping[str, str], reserved: frozenset[str]
) -> dict[str, Protection]:
    return {
        bronze_name(*qualified(name), source.prefix, reserved): protection_of(
            f"{source.name}: {name}",
            {"drop": table.drop, "mask": table.mask, "hash": table.hash},
            source.hash_key_env,
            variables,
        )
        for name, table in source.sensitive.items()
    }


def _reserved(pipeline: Pipeline) -> frozenset[str]:
    """Names of the tables that come from topics, or are made of a topic's or a stream's table."""
    names = {topic.table for topic in _all_topics(pipeline)}
    names |= {f"{topic.table}{ending}" for topic in _all_topics(pipeline) if topic.key for ending in _OF_CHANGES}
    for stream in pipeline.streams.values():
        endings = ("_late",) if stream.kind == "events" else ("_history", "_ledger")
        names |= {f"{stream.from_}{ending}" for ending in endings} | {
            f"{table}_history" for table in stream.further_tables
        }
    return frozenset(name.lower() for name in names)


def _all_topics(pipeline: Pipeline) -> list[Topic]:
    return [topic for one in pipeline.sources.values() if isinstance(one, KafkaSource) for topic in one.topics]


def _tables_of(source: PostgresSource, pipeline: Pipeline) -> tuple[str, ...]:
    """Bronze tables of a database that the pipeline names: those of streams, and those listed for the source."""
    named = [stream.from_ for stream in pipeline.streams.values()]
    named += [table for stream in pipeline.streams.values() for table in stream.further_tables]
    ours = [table for table in named if source_of(table, pipeline) == source.name]
    return tuple(dict.fromkeys([*ours, *_listed(source, pipeline)]))


def _listed(source: PostgresSource, pipeline: Pipeline) -> list[str]:
    reserved = _reserved(pipeline)
    return [bronze_name(*qualified(table), source.prefix, reserved) for table in source.tables]
