"""Whether sources, streams and labels agree: names that must exist, and names that must not be there twice.

It goes by the files' plain values, so that entries with other mistakes are compared as far as they can be read. What a
PostgreSQL database has is not known here: of its tables only the names that a file lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fraud_lakehouse.pipeline.document import Document
from fraud_lakehouse.pipeline.mistakes import Location, listed, nearest, place, shown
from fraud_lakehouse.pipeline.sources import (
    CHANGE_FORMATS,
    SHIPPED_TOPIC,
    SHIPPED_TOPIC_DEFAULT,
    PostgresSource,
    Source,
    field_type,
)
from fraud_lakehouse.pipeline.streams import RATE_COLUMNS
from fraud_lakehouse.sql_text import qualified

_NUMERIC = re.compile(r"int32|int64|double|decimal\(.*\)")
_FITTING = {
    "amount": (_NUMERIC, "int32, int64, double or decimal(p,s)"),
    "time": (re.compile("timestamp|timestamptz|string"), "timestamp, timestamptz or string"),
    "label": (re.compile("int32|int64|boolean"), "int32, int64 or boolean"),
    "is_fraud": (re.compile("int32|int64|boolean|string"), "int32, int64, boolean or string"),
    "known_at": (re.compile("timestamp|timestamptz|string"), "timestamp, timestamptz or string"),
    "currency": (re.compile("string"), "string"),
    "rate": (_NUMERIC, "int32, int64, double or decimal(p,s)"),
    "from": (re.compile("date|timestamp|timestamptz|string"), "date, timestamp, timestamptz or string"),
}
"""By role of a column in a stream: the types of a topic's field that fit it, and their names."""


_NO_ORDER = "changes of a topic have no common order with those of another table"


@dataclass(frozen=True)
class _Table:
    """A declared table.

    Args:
        columns: of a topic, names and types (None: it cannot be read); empty where they are not known.
        has_changes: of a topic, whether its records are change events.
        key: of such a topic, the columns of its table's key.
    """

    name: str
    at: Location
    is_topic: bool
    columns: dict[str, str | None] = field(default_factory=dict)
    has_changes: bool = False
    key: tuple[str, ...] = ()


def check_agreement(
    sources: Document,
    streams: Document,
    labels: Document,
    built: Mapping[str, Source],
    environment: Mapping[str, str],
) -> None:
    """Add to the documents' mistakes those between entries.

    Args:
        built: the sources that have no mistakes of their own.
    """
    tables = list(_tables(sources))
    _check_table_names(sources, tables)
    _check_field_names(sources)
    _check_slots(sources, built)
    _check_topics(sources, environment)
    if not sources.is_read:
        return
    _check_streams(streams, tables, _open_prefixes(sources))
    _check_labels(labels, streams, tables, _open_prefixes(sources))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _open_prefixes(sources: Document) -> tuple[str, ...]:
    """The prefixes of databases that may have tables which the file does not list."""
    entries = [_mapping(entry) for entry in sources.values.values()]
    return tuple(
        _text(entry.get("prefix"))
        for entry in entries
        if entry.get("type") != "kafka"
        and "topics" not in entry
        and (not _items(entry.get("tables")) or "tables_env" in entry)
    )


def _topics(sources: Document) -> Iterator[tuple[Location, dict[str, Any], dict[str, Any]]]:
    """Location and values of each topic, and the values of its source."""
    for name, entry in sources.values.items():
        source = _mapping(entry)
        for index, topic in enumerate(_items(source.get("topics"))):
            yield (name, "topics", index), _mapping(topic), source


def _tables(sources: Document) -> Iterator[_Table]:
    for name, entry in sources.values.items():
        source = _mapping(entry)
        for index, item in enumerate(_items(source.get("tables"))):
            try:
                schema, table = qualified(_text(item))
            except ValueError:
                continue
            bronze = _text(source.get("prefix")) + (table if schema == "public" else f"{schema}__{table}")
            yield _Table(bronze, (name, "tables", index), False)
    for at, topic, _ in _topics(sources):
        if isinstance(topic.get("table"), str):
            columns = {column: _type(kind) for column, kind in _mapping(topic.get("fields")).items()}
            columns |= {column: "string" for column in map(_text, _items(topic.get("hash"))) if column in columns}
            key = tuple(_text(column) for column in _items(topic.get("key")))
            yield _Table(topic["table"], (*at, "table"), True, columns, topic.get("format") in CHANGE_FORMATS, key)


def _type(declared: Any) -> str | None:
    try:
        return field_type(declared.get("type") if isinstance(declared, dict) else declared)
    except ValueError:
        return None


def _check_table_names(sources: Document, tables: list[_Table]) -> None:
    first: dict[str, _Table] = {}
    for table in sorted(tables, key=lambda table: sources.line(table.at)):
        other = first.setdefault(table.name.casefold(), table)
        if other is not table:
            case = "" if other.name == table.name else ", which differs only by case"
            sources.report(
                table.at,
                f"the bronze table {shown(table.name)} is also that of {place(other.at)}"
                f" (line {sources.line(other.at)}){case}, expected a name of its own; a PostgreSQL source may have a"
                " prefix",
            )


def _check_field_names(sources: Document) -> None:
    for at, topic, _ in _topics(sources):
        first: dict[str, str] = {}
        for column in _mapping(topic.get("fields")):
            other = first.setdefault(column.casefold(), column)
            if other != column:
                sources.report((*at, "fields", column), f"the name differs from {shown(other)} only by case")


def _check_slots(sources: Document, built: Mapping[str, Source]) -> None:
    first: dict[tuple[str, str], str] = {}
    for name, source in built.items():
        if isinstance(source, PostgresSource):
            other = first.setdefault((source.dsn_env, source.slot), name)
            if other != name:
                of = f"the replication slot {source.slot} of {source.dsn_env}"
                sources.report((name, "slot"), f"{of} is also that of {other}, expected one of its own")


def _check_topics(sources: Document, environment: Mapping[str, str]) -> None:
    first: dict[tuple[str, str], Location] = {}
    for at, topic, source in _topics(sources):
        variable = _text(topic.get("topic_env"))
        shipped = SHIPPED_TOPIC_DEFAULT if variable == SHIPPED_TOPIC else ""
        name = environment.get(variable) or _text(topic.get("topic", shipped))
        servers = _text(source.get("servers_env"))
        if name and servers and (other := first.setdefault((servers, name), at)) != at:
            sources.report(at, f"the topic {shown(name)} is also that of {place(other)}, expected each topic once")


def _check_streams(streams: Document, tables: list[_Table], open_prefixes: tuple[str, ...]) -> None:
    known = {table.name: table for table in reversed(tables)}
    topics = {table.name: table for table in reversed(tables) if table.is_topic}
    of_events: dict[str, str] = {}
    for name, values in streams.values.items():
        stream, at = _mapping(values), (name, "from")
        origin = stream.get("from")
        if stream.get("kind") == "events":
            table = _check_table(streams, at, origin, topics, (), "the table of a topic, since the kind is events")
            if table is not None and of_events.setdefault(table.name, name) != name:
                other = place([of_events[table.name]])
                streams.report(at, f"the table is also that of {other}, expected one stream of events for a table")
        else:
            table = _check_table(streams, at, origin, known, open_prefixes)
            is_topic = table is not None and table.is_topic and not table.has_changes
            if is_topic and stream.get("kind") == "changes":
                expected = "events: records of this format are never changed"
                streams.report((name, "kind"), f"found 'changes', expected {expected}")
        if table is not None and table.has_changes:
            _check_changes(streams, name, stream, table)
        if table is not None:
            for role, column_at, column in _columns(stream):
                _check_column(streams, (name, *column_at), table, column, role)
        _check_further_tables(streams, name, stream, known, open_prefixes)


def _check_changes(streams: Document, name: str, stream: dict[str, Any], table: _Table) -> None:
    """Check a stream of a topic of change events."""
    if stream.get("kind") == "events":
        streams.report((name, "kind"), "found 'events', expected changes: the topic has change events")
    elif not table.key:
        expected = f"`key: [{stream.get('id')}]` of the topic in sources.yml"
        streams.report((name, "from"), f"the topic of {shown(table.name)} declares no key, expected {expected}")
    for entity, values in _mapping(stream.get("entities")).items():
        if _mapping(values).get("exists_in"):
            streams.report((name, "entities", entity, "exists_in"), f"found a table, expected none: {_NO_ORDER}")


def _check_labels(labels: Document, streams: Document, tables: list[_Table], open_prefixes: tuple[str, ...]) -> None:
    known = {table.name: table for table in reversed(tables)}
    for name, values in labels.values.items():
        entry = _mapping(values)
        table = _check_table(labels, (name, "from"), entry.get("from"), known, open_prefixes)
        stream = entry.get("stream")
        if isinstance(stream, str) and streams.is_read and stream not in streams.values:
            there = listed(streams.values) or "none is declared"
            expected = f"a stream of streams.yml: {there}{nearest(stream, streams.values)}"
            labels.report((name, "stream"), f"found {shown(stream)}, expected {expected}")
        if table is None:
            continue
        if isinstance(stream, dict):
            _check_column(labels, (name, "stream", "column"), table, stream.get("column"), "")
        for role in ("transaction_id", "is_fraud", "known_at", "author", "note"):
            _check_column(labels, (name, role), table, entry.get(role), role)


def _check_further_tables(
    streams: Document, name: str, stream: dict[str, Any], known: Mapping[str, _Table], open_prefixes: tuple[str, ...]
) -> None:
    """Tables that currencies and entities name."""
    _check_rates(
        streams, (name, "currency", "rates"), _mapping(stream.get("currency")).get("rates"), known, open_prefixes
    )
    for entity, values in _mapping(stream.get("entities")).items():
        must = _mapping(_mapping(values).get("exists_in"))
        at = (name, "entities", entity, "exists_in")
        if "table" in must:
            table = _check_table(streams, (*at, "table"), must["table"], known, open_prefixes)
            if table is not None and table.has_changes:
                streams.report((*at, "table"), f"found {shown(table.name)}, a topic; expected a table: {_NO_ORDER}")
            elif table is not None:
                _check_column(streams, (*at, "column"), table, must.get("column"), "")


def _check_rates(
    streams: Document, at: Location, rates: Any, known: Mapping[str, _Table], open_prefixes: tuple[str, ...]
) -> None:
    named = _mapping(rates)
    table = _check_table(streams, (*at, "table") if named else at, named.get("table", rates), known, open_prefixes)
    if table is not None:
        for role, default in RATE_COLUMNS.items():
            _check_column(streams, (*at, role) if role in named else at, table, named.get(role, default), role)


def _check_table(
    streams: Document,
    at: Location,
    name: Any,
    known: Mapping[str, _Table],
    open_prefixes: tuple[str, ...],
    expected: str = "a declared table",
) -> _Table | None:
    """The table of a name; None where it is not declared, which is a mistake unless PostgreSQL may have it."""
    if not isinstance(name, str):
        return None
    if name in known:
        return known[name]
    if not name.startswith(open_prefixes) or name.casefold() in {table.casefold() for table in known}:
        declared = listed(sorted(known)) or "none is declared"
        streams.report(at, f"found {shown(name)}, expected {expected}: {declared}{nearest(name, known)}")
    return None


def _check_column(streams: Document, at: Location, table: _Table, name: Any, role: str) -> None:
    if not table.columns or not isinstance(name, str):
        return
    if name not in table.columns:
        fields = listed(table.columns) + nearest(name, table.columns)
        streams.report(at, f"found {shown(name)}, expected a field of {shown(table.name)}: {fields}")
        return
    kind, fitting = table.columns[name], _FITTING.get(role)
    if kind is not None and fitting is not None and not fitting[0].fullmatch(kind):
        streams.report(at, f"found {shown(name)} of type {kind}, expected a field of type {fitting[1]}")


def _columns(stream: dict[str, Any]) -> Iterator[tuple[str, Location, Any]]:
    """Role, location and name of each column that a stream names."""
    for role in ("id", "time", "amount", "label"):
        yield role, (role,), stream.get(role)
    yield "currency", ("currency", "column"), _mapping(stream.get("currency")).get("column")
    for entity, values in _mapping(stream.get("entities")).items():
        at: Location = ("entities", entity)
        key = values.get("key") if isinstance(values, dict) else values
        if isinstance(values, dict):
            at = (*at, "key")
        if isinstance(key, list):
            for index, column in enumerate(key):
                yield "key", (*at, index), column
        else:
            yield "key", at, key
