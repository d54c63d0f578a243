"""The pipeline folder: where it is, and what its files declare, as typed objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline.agreement import check_agreement
from fraud_lakehouse.pipeline.building import build, check_own_names
from fraud_lakehouse.pipeline.document import Document, read_document
from fraud_lakehouse.pipeline.labels import LabelTable
from fraud_lakehouse.pipeline.mistakes import Mistake, PipelineError, nearest, shown
from fraud_lakehouse.pipeline.sources import (
    SHIPPED_DSN,
    SOURCE_TYPES,
    TOPIC_EXPECTED,
    TOPIC_NAME,
    PostgresSource,
    Source,
)
from fraud_lakehouse.pipeline.streams import Stream
from fraud_lakehouse.shipped import shipped_path
from fraud_lakehouse.sql_text import listed_tables, qualified

SOURCES, STREAMS, LABELS = "sources.yml", "streams.yml", "labels.yml"
_SHORTHAND = {"slot": "FRAUD_POSTGRES_SLOT", "publication": "FRAUD_POSTGRES_PUBLICATION"}
"""Variables that name the slot and the publication of the shipped connection."""


@dataclass(frozen=True)
class Pipeline:
    """Sources, streams and tables of labels by name, in the order of the files, and the folder they were read from."""

    sources: dict[str, Source]
    streams: dict[str, Stream]
    folder: Path
    labels: dict[str, LabelTable] = field(default_factory=dict)


def default_folder(environment: Mapping[str, str]) -> Path:
    """The pipeline folder: FRAUD_PIPELINE, else `pipeline` in the current folder, else the shipped one.

    Raises:
        SettingsError: there is none.
    """
    if named := environment.get("FRAUD_PIPELINE"):
        return Path(named)
    for folder in (Path("pipeline"), shipped_folder()):
        if (folder / SOURCES).is_file():
            return folder
    raise SettingsError(
        f"there is no pipeline folder: neither here nor in {shipped_folder().parent} is a file pipeline/{SOURCES}",
        "name the folder by FRAUD_PIPELINE, or install fraud-lakehouse anew",
    )


def shipped_folder() -> Path:
    """The pipeline folder that came with the package."""
    return shipped_path("pipeline")


def load_pipeline(folder: Path, environment: Mapping[str, str]) -> Pipeline:
    """Read and check a pipeline folder.

    Args:
        environment: the environment variables. Names of tables, topics, slot and publication may be in them.

    Raises:
        PipelineError: the files have mistakes; it has all of them.
    """
    pipeline, mistakes = _load(folder, environment)
    if mistakes:
        raise PipelineError(folder, mistakes)
    return pipeline


def find_mistakes(folder: Path, environment: Mapping[str, str]) -> list[Mistake]:
    """All mistakes of a pipeline folder, by file and line; empty where it can be used."""
    return _load(folder, environment)[1]


def _load(folder: Path, environment: Mapping[str, str]) -> tuple[Pipeline, list[Mistake]]:
    """The pipeline as far as it has no mistakes, and the mistakes."""
    declared = read_document(folder / SOURCES, "sources by name")
    streams = read_document(folder / STREAMS, "streams by name")
    has_labels = (folder / LABELS).is_file()
    labels = read_document(folder / LABELS, "tables of labels by name") if has_labels else Document(LABELS)
    built = {name: source for name in declared.values if (source := _source(declared, name, environment)) is not None}
    payments = {name: one for name in streams.values if (one := build(streams, name, Stream)) is not None}
    known = {name: table for name in labels.values if (table := build(labels, name, LabelTable)) is not None}
    for document in (declared, streams, labels):
        check_own_names(document)
    check_agreement(declared, streams, labels, built, environment)
    mistakes = [one for document in (declared, streams, labels) for one in sorted(set(document.mistakes))]
    return Pipeline(built, payments, folder, known), mistakes


def _source(document: Document, name: str, environment: Mapping[str, str]) -> Source | None:
    values = document.values[name]
    if not isinstance(values, dict):
        document.report((name,), f"found {shown(values)}, expected a mapping with type: {' or '.join(SOURCE_TYPES)}")
        return None
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in SOURCE_TYPES:
        found = f"found {shown(kind)}" if "type" in values else "the key type is missing"
        at = (name, "type") if "type" in values else (name,)
        document.report(at, f"{found}, expected one of {', '.join(SOURCE_TYPES)}{nearest(kind, SOURCE_TYPES)}")
        return None
    defaults = {}
    if values.get("dsn_env") == SHIPPED_DSN:
        defaults = {key: environment[name] for key, name in _SHORTHAND.items() if environment.get(name)}
    source = build(document, name, SOURCE_TYPES[kind], defaults)
    return None if source is None else _with_environment(document, source, environment)


def _with_environment(document: Document, source: Source, environment: Mapping[str, str]) -> Source:
    """The source with the tables and topics that its variables name."""
    if isinstance(source, PostgresSource):
        listed = environment.get(source.tables_env or "")
        if not listed:
            return source
        try:
            tables = listed_tables(listed)
            for table in tables:
                qualified(table)
        except ValueError:
            expected = 'a comma list of [schema.]table, a name with a comma as "a,b"'
            document.report((source.name, "tables_env"), f"found {shown(listed)}, expected {expected}")
            return source
        return source.model_copy(update={"tables": tables})
    topics = []
    for index, topic in enumerate(source.topics):
        named = environment.get(topic.topic_env or "") or topic.topic
        if not TOPIC_NAME.fullmatch(named):
            at = (source.name, "topics", index, "topic_env")
            document.report(at, f"found {shown(named)} in {topic.topic_env}, expected {TOPIC_EXPECTED}")
        topics.append(topic.model_copy(update={"topic": named}))
    return source.model_copy(update={"topics": tuple(topics)})
