"""Whether sources and streams agree with each other: names that must exist, and names that must not be there twice.

It goes by the files' plain values, so that entries with other mistakes are compared as far as they can be read. What a
PostgreSQL database has is not known here: of its tables only the names that a file lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fraud_lakehouse.pipeline.document import Document
from fraud_lakehouse.pipeline.mistakes import Location, nearest, place, shown
from fraud_lakehouse.pipeline.sources import SHIPPED_TOPIC, SHIPPED_TOPIC_DEFAULT, PostgresSource, Source, field_type
from fraud_lakehouse.sql_text import qualified

_MOST_NAMES = 20  # tables that a message lists
_NUMERIC = re.compile(r"int32|int64|double|decimal\(.*\)")
_FITTING = {
    "amount": (_NUMERIC, "int32, int64, double or decimal(p,s)"),
    "time": (re.compile("timestamp|timestamptz|string"), "timestamp, timestamptz or string"),
    "label": (re.compile("int32|int64|boolean"), "int32, int64 or boolean"),
    "currency": (re.compile("string"), "string"),
}
"""By role of a column in a stream: the types of a topic's field that fit it, and their names."""


@dataclass(frozen=True)
class _Table:
    """A declared table. `columns` are names and types (None: it cannot be read); None of a PostgreSQL table."""

    name: str
    at: Location
    columns: dict[str, str | None] | None


def check_agreement(
    sources: Document, streams: Document, built: Mapping[str, Source], environment: Mapping[str, str]
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
    known = {table.name: table for table in reversed(tables)}
    _check_streams(streams, known, _is_open(sources))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_open(sources: Document) -> bool:
    """Whether a PostgreSQL source may capture tables that the file does not list."""
    entries = [_mapping(entry) for entry in sources.values.values()]
    return any(
        entry.get("type") == "postgres" and (not entry.get("tables") or "tables_env" in entry) for entry in entries
    )


def _topics(sources: Document) -> Iterator[tuple[Location, dict[str, Any], dict[str, Any]]]:
    """Location and values of each topic, and the values of its source."""
    for name, entry in sources.values.items():
        if _mapping(entry).get("type") == "kafka":
            for index, topic in enumerate(_items(entry.get("topics"))):
                yield (name, "topics", index), _mapping(topic), entry


def _tables(sources: Document) -> Iterator[_Table]:
    for name, entry in sources.values.items():
        if _mapping(entry).get("type") != "postgres":
            continue
        for index, listed in enumerate(_items(entry.get("tables"))):
            try:
                schema, table = qualified(_text(listed))
            except ValueError:
                continue
            bronze = _text(entry.get("prefix")) + (table if schema == "public" else f"{schema}__{table}")
            yield _Table(bronze, (name, "tables", index), None)
    for at, topic, _ in _topics(sources):
        if isinstance(topic.get("table"), str):
            fields = _mapping(topic.get("fields"))
            yield _Table(topic["table"], (*at, "table"), {column: _type(kind) for column, kind in fields.items()})


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


def _check_streams(streams: Document, known: Mapping[str, _Table], is_open: bool) -> None:
    topics = {name: table for name, table in known.items() if table.columns is not None}
    of_events: dict[str, str] = {}
    for name, values in streams.values.items():
        stream, at = _mapping(values), (name, "from")
        origin = stream.get("from")
        if stream.get("kind") == "events":
            table = _check_table(streams, at, origin, topics, False, "the table of a topic, since the kind is events")
            if table is not None and of_events.setdefault(table.name, name) != name:
                other = place([of_events[table.name]])
                streams.report(at, f"the table is also that of {other}, expected one stream of events for a table")
        else:
            table = _check_table(streams, at, origin, known, is_open)
            if table is not None and table.columns is not None and stream.get("kind") == "changes":
                expected = "events: records of format json are never changed"
                streams.report((name, "kind"), f"found 'changes', expected {expected}")
        if table is not None:
            for role, column_at, column in _columns(stream):
                _check_column(streams, (name, *column_at), table, column, role)
        _check_further_tables(streams, name, stream, known, is_open)


def _check_further_tables(
    streams: Document, name: str, stream: dict[str, Any], known: Mapping[str, _Table], is_open: bool
) -> None:
    """Tables that currencies and entities name."""
    currency = _mapping(stream.get("currency"))
    if "rates" in currency:
        _check_table(streams, (name, "currency", "rates"), currency["rates"], known, is_open)
    for entity, values in _mapping(stream.get("entities")).items():
        must = _mapping(_mapping(values).get("exists_in"))
        at = (name, "entities", entity, "exists_in")
        if "table" in must:
            table = _check_table(streams, (*at, "table"), must["table"], known, is_open)
            if table is not None:
                _check_column(streams, (*at, "column"), table, must.get("column"), "")


def _check_table(
    streams: Document,
    at: Location,
    name: Any,
    known: Mapping[str, _Table],
    is_open: bool,
    expected: str = "a declared table",
) -> _Table | None:
    """The table of a name; None where it is not declared, which is a mistake unless PostgreSQL may have it."""
    if not isinstance(name, str) or name in known:
        return known.get(name)
    if not is_open or name.casefold() in {table.casefold() for table in known}:
        declared = ", ".join(sorted(known)[:_MOST_NAMES]) or "none is declared"
        streams.report(at, f"found {shown(name)}, expected {expected}: {declared}{nearest(name, known)}")
    return None


def _check_column(streams: Document, at: Location, table: _Table, name: Any, role: str) -> None:
    if table.columns is None or not isinstance(name, str):
        return
    if name not in table.columns:
        fields = ", ".join(table.columns) or "none is declared"
        near = nearest(name, table.columns)
        streams.report(at, f"found {shown(name)}, expected a field of {shown(table.name)}: {fields}{near}")
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
