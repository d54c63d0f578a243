"""One table or topic as an entry of `streams.yml`, with a comment on each line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from fraud_lakehouse.discovery.facts import Column, Reference
from fraud_lakehouse.discovery.roles import IS_CANDIDATE, IS_STREAM, Choice, EntityChoice, Roles, split_entities
from fraud_lakehouse.discovery.text import Entry, choice, flow, line, scalar

_KINDS = {
    "changes": "rows of a PostgreSQL table may be updated and deleted",
    "events": "records of a topic arrive once and are never changed",
}
_MOST_CHOICES = 5  # maximum further candidates listed per role
_PLACEHOLDER = "A_COLUMN"

Known = Callable[[Reference], str]
"""The bronze table that a reference points to, if it is captured."""


def stream_entry(
    name: str,
    table: str,
    kind: Literal["changes", "events"],
    roles: Roles,
    known: Known = lambda _: "",
    problems: Sequence[str] = (),
) -> Entry:
    """The entry of a stream; commented out where it has problems, lacks a role or does not look like payments.

    Args:
        table: its bronze table.
        known: see `Known`.
        problems: what prevents it from being a stream, other than missing roles.
    """
    missing = [*problems] or roles.missing
    is_proposed = roles.has_all and not missing and roles.score >= IS_STREAM
    if missing:
        why = "not a stream yet: " + "; ".join(missing)
    elif is_proposed:
        why = f"looks like payments (score {roles.score}; proposed from {IS_STREAM})"
    else:
        why = f"may be payments (score {roles.score}; proposed from {IS_STREAM}): remove '# ' if it is"
    lines = [
        line(f"{scalar(name)}:"),
        line(f"from: {scalar(table)}", why, 1),
        line(f"kind: {kind}", _KINDS[kind], 1),
        *_role("id", roles.id),
        *_role("time", roles.time),
        *_timezone(roles),
        *_role("amount", roles.amount),
        *_currency(roles.currency),
        *(_role("label", roles.label) if roles.label else ()),
        *_entities(roles.entities, known),
    ]
    return Entry(name, tuple(lines), is_proposed)


def is_worth_a_comment(roles: Roles) -> bool:
    """Whether rows that are not a stream are shown in a comment."""
    return roles.score >= IS_CANDIDATE


def _role(role: str, choices: Sequence[Choice]) -> list[str]:
    if not choices:
        return [line(f"{role}: {_PLACEHOLDER}", f"none was found: name the column that is the {role}", 1)]
    first, *others = choices
    lines = [line(f"{role}: {scalar(first.column.name)}", first.why, 1)]
    return lines + [choice(f"{role}: {scalar(one.column.name)}", one.why, 1) for one in others[:_MOST_CHOICES]]


def _timezone(roles: Roles) -> list[str]:
    if not roles.time or roles.time[0].column.kind != "time":
        return []
    column = roles.time[0].column.name
    return [
        line("timezone: UTC", f"{column} has no zone; UTC is a guess", 1),
        choice("timezone: Europe/Paris", "or the zone in which it was recorded", 1),
    ]


def _currency(columns: Sequence[Column]) -> list[str]:
    if not columns:
        return [line("currency: USD", "no column has it; USD is a guess: correct it", 1)]
    why = f"a guess: {columns[0].name} has each payment's currency. With a captured table of dated rates:"
    mapping = flow({"column": columns[0].name, "rates": "THE_TABLE", "to": "USD"})
    return [line("currency: USD", why, 1), choice(f"currency: {mapping}", "", 1)]


def _entities(entities: Sequence[EntityChoice], known: Known) -> list[str]:
    if not entities:
        why = "none was found: name the column that says who pays"
        return [line(f"entities: {{user: {_PLACEHOLDER}}}", why, 1)]
    chosen, others = split_entities(entities)
    lines = [line("entities:", "alerts are about the first", 1)]
    lines += [_entity(one, known, line) for one in chosen]
    return lines + [_entity(one, known, choice) for one in others[:_MOST_CHOICES]]


def _entity(entity: EntityChoice, known: Known, write: Callable[[str, str, int], str]) -> str:
    key, reference, why = entity.column.name, entity.column.reference, entity.why
    value = scalar(key)
    if reference is not None and not reference.enforced and (table := known(reference)):
        if reference.is_known:
            value = flow({"key": key, "exists_in": {"table": table, "column": reference.column}})
            why += "; all sampled values exist there, so a missing one is unknown"
        elif reference.is_known is False:
            why += "; not all sampled values exist there"
    return write(f"{scalar(entity.name)}: {value}", why, 2)
