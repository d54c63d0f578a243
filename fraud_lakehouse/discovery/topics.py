"""The topics of a cluster as a source, and those with payments as streams."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from fraud_lakehouse.discovery.facts import Cluster, Column, JsonField, Kind, Sample, Topic
from fraud_lakehouse.discovery.naming import STREAM_TABLES, Names, field_names, made_of, stream_name
from fraud_lakehouse.discovery.roles import IS_STREAM, Roles, roles_of_topic
from fraud_lakehouse.discovery.streams import is_worth_a_comment, stream_entry
from fraud_lakehouse.discovery.text import Entry, choice, commented, counted, flow, line, plain, scalar

_KINDS: dict[str, Kind] = {
    "timestamptz": "zoned",
    "timestamp": "time",
    "date": "time",
    "double": "money",
    "int64": "number",
    "boolean": "flag",
    "string": "text",
}
_UNREADABLE = {
    "debezium": "change envelopes (Debezium), which cannot be read yet",
    "avro": "values begin like those of a schema registry (Avro), which cannot be read yet",
    "other": "values are not JSON objects, which cannot be read yet",
    "none": "it has no records: run discover again later",
}


@dataclass(frozen=True)
class _Readable:
    """A topic of JSON records, with a column for each declared field."""

    topic: Topic
    table: str
    names: dict[tuple[str, ...], str]
    roles: Roles

    @property
    def is_stream(self) -> bool:
        return self.roles.has_all and not self.roles.missing and self.roles.score >= IS_STREAM


def propose_topics(
    cluster: Cluster, known: Collection[str], name: str, tables: Names, bronze: Names, streams: Names
) -> tuple[Entry | None, list[Entry]]:
    """The source of a cluster's topics (None if none is new), and its streams.

    Args:
        known: topics that are declared already.
        name: the source's.
        tables: names that topics' tables cannot have; those of the topics are added.
        bronze: names of bronze tables in use; those of the topics are added.
        streams: names of streams in use; those of the topics are added.
    """
    topics = [topic for topic in cluster.topics if topic.name not in known]
    if not topics:
        return None, []
    readable = [_read(topic, tables) for topic in topics if any(field.type for field in topic.fields)]
    bronze.add(*(made for one in readable for made in made_of(one.table)))
    worthy = [one for one in readable if one.is_stream or is_worth_a_comment(one.roles)]
    proposed = {one.topic.name for one in worthy or readable}
    lines = [
        line(f"{scalar(name)}:"),
        line("type: kafka", depth=1),
        line(f"servers_env: {cluster.variable}", "its value: host:port, comma separated", 1),
    ]
    if cluster.config_variable:
        lines.append(line(f"config_file_env: {cluster.config_variable}", "librdkafka's properties", 1))
    lines.append(line("topics:", "a record without a field is quarantined, unless the field is optional", 1))
    of_topics = {one.topic.name: _topic_lines(one) for one in readable}
    for topic in topics:
        found = of_topics.get(topic.name, [f"- topic: {scalar(topic.name)} # {_why_not(topic)}"])
        if topic.name not in proposed:
            found = commented(found)
        lines += [f"    {one}" for one in found]
    is_only = len(worthy) == 1
    entries = []
    for one in worthy:
        wanted = streams.take(stream_name(name, one.topic.name, is_only), 40, STREAM_TABLES)
        entries.append(stream_entry(wanted, one.table, "events", one.roles))
    return Entry(name, tuple(lines), bool(proposed)), entries


def _why_not(topic: Topic) -> str:
    return _UNREADABLE.get(topic.format, "no field of its records has one type that can be declared")


def _read(topic: Topic, tables: Names) -> _Readable:
    names = field_names(field.path for field in topic.fields if field.type)
    columns = [_column(field, names[field.path], topic) for field in topic.fields if field.type]
    roles = roles_of_topic(topic.name, columns)
    table = tables.take(topic.name, 55, ("", "_late"))
    found = _Readable(topic, table, names, roles)
    day = roles.time[0].column if roles.time else None
    if day is None or day.type != "date":
        return found
    # A stream's time must not be a date; read as text, it is the beginning of the day.
    fields = [replace(one, type="string") if names.get(one.path) == day.name else one for one in topic.fields]
    return replace(found, topic=replace(topic, fields=tuple(fields)))


def _column(field: JsonField, name: str, topic: Topic) -> Column:
    sample = Sample(topic.records - topic.unlike, field.present, field.distinct, field.are_flags)
    kind = _KINDS.get(field.type, "money")
    return Column(name, kind, field.type, nullable=field.present < sample.rows, sample=sample)


def _topic_lines(one: _Readable) -> list[str]:
    topic = one.topic
    why = f"{counted(topic.partitions, 'partition')}; {counted(topic.records - topic.unlike, 'sampled record')} of JSON"
    if topic.unlike:
        why += f", and {topic.unlike} that cannot be read"
    if not one.is_stream:
        why += f"; {'; '.join(one.roles.missing) or f'score {one.roles.score} of {IS_STREAM} for payments'}"
    lines = [
        line(f"- topic: {scalar(topic.name)}", why),
        line(f"table: {scalar(one.table)}", depth=1),
        line("format: json", depth=1),
        line("fields:", depth=1),
    ]
    records = topic.records - topic.unlike
    for field in topic.fields:
        path = ".".join(field.path)
        if not field.type:
            lines.append(choice(plain(f"path {path}"), f"{field.note}; it is kept in _extra", 2))
            continue
        name = one.names[field.path]
        keys: dict[str, object] = {"path": path} if path != name else {}
        keys["type"] = field.type
        keys |= {"unit": field.unit} if field.unit else {}
        keys |= {"optional": True} if field.present < records else {}
        value = flow(keys) if len(keys) > 1 else scalar(field.type)
        lines.append(line(f"{scalar(name)}: {value}", field.note, 2))
    return lines
