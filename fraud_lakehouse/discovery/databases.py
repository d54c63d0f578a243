"""The tables of a database as a source, and those with payments as streams."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fraud_lakehouse.discovery.facts import Database, Reference, Table
from fraud_lakehouse.discovery.json_fields import words_of
from fraud_lakehouse.discovery.naming import STREAM_TABLES, Names, bronze_of, made_of, stream_name
from fraud_lakehouse.discovery.roles import IS_STREAM, Roles, roles_of_table
from fraud_lakehouse.discovery.streams import is_worth_a_comment, stream_entry
from fraud_lakehouse.discovery.text import Entry, choice, line, listed_table, plain, rows, scalar
from fraud_lakehouse.pipeline import PostgresSource
from fraud_lakehouse.sources.postgres.names import bronze_name
from fraud_lakehouse.sql_text import qualified

_SECRET = re.compile(r"(^|_)(password|passwd|pwd|passphrase|secret|token|session|cvv|cvc|otp|private_key|api_key)(_|$)")


@dataclass(frozen=True)
class _Judged:
    """A table and its possible uses.

    Args:
        bronze: its name in bronze.
        why_not: why it cannot be captured; empty if it can.
        why_no_stream: why it can be captured but cannot be a stream.
    """

    table: Table
    bronze: str
    roles: Roles
    why_not: str = ""
    why_no_stream: str = ""

    @property
    def is_stream(self) -> bool:
        is_fit = not (self.why_not or self.why_no_stream or self.roles.missing)
        return is_fit and self.roles.has_all and self.roles.score >= IS_STREAM

    @property
    def secrets(self) -> list[str]:
        """Columns with sensitive values, which should be copied only if needed."""
        return [column.name for column in self.table.columns if _SECRET.search(words_of(column.name))]


def propose_database(
    database: Database,
    reader: PostgresSource | None,
    name: str,
    prefix: str,
    read: Collection[str],
    bronze: Names,
    streams: Names,
) -> tuple[Entry | None, list[Entry], list[str]]:
    """The source of a database (None if one is declared), its streams, and notes.

    Args:
        reader: the declared source that reads this database.
        name, prefix: of the source.
        read: bronze tables that are already streams.
        bronze: names of bronze tables in use; this database's are added.
        streams: names of streams in use; this database's are added.
    """
    judged = _evaluate(database.tables, prefix, bronze, reader is None)
    worthy = [one for one in judged if one.bronze not in read and (one.is_stream or is_worth_a_comment(one.roles))]
    notes = []
    if reader is not None:
        covered = _covered(reader, judged)
        left = [one for one in worthy if one.bronze not in covered and not one.why_not]
        worthy = [one for one in worthy if one.bronze in covered]
        names = ", ".join(listed_table(*one.table.identity) for one in left)
        notes = [f"{name} has no {names} in its tables, which may be payments: add them"] if left else []
    else:
        covered = _captured(judged, worthy)
    known = {one.table.identity: one.bronze for one in judged if one.bronze in covered}
    streams.add(*(one.bronze for one in judged if one.bronze.endswith(STREAM_TABLES[1:])))
    entries = []
    for one in worthy:
        wanted = stream_name(name, one.table.name, len(worthy) == 1)
        problems = [problem for problem in (one.why_not, one.why_no_stream) if problem]
        entry = stream_entry(
            streams.take(wanted, 40, STREAM_TABLES),
            one.bronze,
            "changes",
            one.roles,
            lambda to: known.get(to.table, ""),
            problems,
        )
        entries.append(entry)
    if reader is not None:
        return None, entries, notes
    return _source(database, name, prefix, judged, worthy, covered), entries, notes


def _evaluate(tables: Sequence[Table], prefix: str, bronze: Names, is_new: bool) -> list[_Judged]:
    """The tables, in order. Those that look most like payments choose their names first.

    Args:
        bronze: names in use; those of these tables and of their streams' models are added.
        is_new: whether no declared source captures them yet.
    """
    judged: list[_Judged] = []
    made, of_streams = Names(), Names()
    scored = [(roles_of_table(one.name, one.columns, one.key), one) for one in tables]
    for roles, table in sorted(scored, key=lambda one: (-one[0].score, one[1].order)):
        wanted, own = bronze_of(prefix, table.schema, table.name), bronze_name(table.schema, table.name, prefix)
        why_not, why_no_stream = table.problem, ""
        if not (table.schema + table.name).isprintable():
            why_not = why_not or "its name has characters that cannot be written in YAML"
        elif is_new and wanted in bronze:
            why_not = why_not or f"the name bronze/{wanted} is in use; give this source another prefix"
        elif own != wanted or wanted in made:
            why_no_stream = (
                f"its table in bronze cannot be called {wanted}: rename it, or read it through another source"
            )
        elif any(name in of_streams for name in made_of(wanted)):
            why_no_stream = f"a stream has the name of a table that is computed from {wanted}: rename one of the two"
        one = _Judged(table, own, roles, why_not, why_no_stream)
        if not why_not:
            bronze.add(wanted)
        if one.is_stream:
            of_streams.add(wanted)
            made.add(*made_of(wanted) - {wanted})
        judged.append(one)
    bronze.add(*made)
    return sorted(judged, key=lambda one: one.table.order)


def _covered(reader: PostgresSource, judged: Sequence[_Judged]) -> set[str]:
    """The bronze tables that a declared source captures."""
    listed = {qualified(table) for table in reader.tables}
    is_there = (lambda one: one.table.identity in listed) if listed else (lambda one: one.table.schema == "public")
    return {one.bronze for one in judged if is_there(one) and not one.why_not}


def _captured(judged: Sequence[_Judged], worthy: Sequence[_Judged]) -> set[str]:
    """The bronze tables to capture: those of streams and those they refer to, or all if there are no streams."""
    able = [one for one in judged if not one.why_not]
    of_streams = {one.bronze for one in worthy if not one.why_not}
    if not of_streams:
        return {one.bronze for one in able if not one.secrets}
    referred = _referred(worthy)
    return of_streams | {one.bronze for one in able if one.table.identity in referred and not one.secrets}


def _referred(worthy: Sequence[_Judged]) -> dict[tuple[str, str], str]:
    """The tables that streams refer to, each with the referring column."""
    found: dict[tuple[str, str], str] = {}
    for one in worthy:
        for column in one.table.columns:
            if isinstance(column.reference, Reference):
                found.setdefault(column.reference.table, f"{one.table.name}.{column.name}")
    return found


def _source(
    database: Database,
    name: str,
    prefix: str,
    judged: Sequence[_Judged],
    worthy: Sequence[_Judged],
    captured: Collection[str],
) -> Entry:
    lines = [
        line(f"{scalar(name)}:"),
        line("type: postgres", depth=1),
        line(f"dsn_env: {database.variable}", f"its value: the connection string of the database {database.name}", 1),
    ]
    lines += [choice(f"before it can be captured: {plain(problem)}", "", 1) for problem in database.problems]
    if prefix:
        lines.append(line(f"prefix: {prefix}", "prefix of its bronze tables; another source may have their names", 1))
    lines.append(line("tables:", depth=1))
    referred = _referred(worthy)
    ordered = sorted(judged, key=lambda one: (one.bronze not in captured, bool(one.why_not)))
    for one in ordered:
        item, is_taken = f"- {plain(listed_table(*one.table.identity))}", one.bronze in captured and not one.why_not
        parts = [_reason(one, worthy, referred, is_taken), rows(one.table.rows)]
        lines.append((line if is_taken else choice)(item, "; ".join(filter(None, parts)), 2))
    return Entry(name, tuple(lines), any(not one.why_not and one.bronze in captured for one in judged))


def _reason(one: _Judged, worthy: Sequence[_Judged], referred: dict[tuple[str, str], str], is_taken: bool) -> str:
    if one.why_not:
        return one.why_not
    secret = f"its column {one.secrets[0]} would be copied into the lake" if one.secrets else ""
    if one in worthy:
        why = "payments, see streams.yml" if one.is_stream else "perhaps payments, see streams.yml"
    elif one.table.identity in referred:
        why = f"{referred[one.table.identity]} refers to it"
    elif is_taken:
        why = "no table looks like payments: all that can be captured are listed"
    else:
        why = "no stream needs it"
    return "; ".join(filter(None, (why, secret)))
