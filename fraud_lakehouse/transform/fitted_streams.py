"""Checks that captured tables fit the streams that read them.

A stream of changes reads a captured table, and any stream may read a table of rates. Their columns are known once they
are captured. A stream whose table does not fit, or is not captured yet, has no models; all others have theirs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.transform.captured import Captured
from fraud_lakehouse.transform.rates import NUMBER, with_rates

_TIME = re.compile("timestamp|timestamptz|date")
_TEXT = re.compile("varchar")
_OF_ENTRIES = frozenset({"weight", "amount_text", "is_amount_excluded", "is_time_excluded"})
_OF_VECTORS = _OF_ENTRIES | {
    "given_time",
    "version",
    "known_at",
    "is_deleted",
    "is_evaluated",
    "is_needed",
    "changed_at",
}
_OF_FEATURES = frozenset(
    {"source", "transaction_id", "amount", "event_time", "source_committed_at", "landed_at", "op", "user_exists"}
    | {"scored_at"}
)
"""Column names that the models use themselves."""


def fitted_catalogue(
    catalogue: Catalogue, own: Collection[str], tables: Mapping[str, str], captured: Mapping[str, Captured]
) -> tuple[Catalogue, list[TransformError]]:
    """The catalogue of the streams that have models, with column types; and the reasons why other streams have none.

    Args:
        own: the streams whose models are files of the project.
        tables: the captured table behind each bronze table of the project's own models.
    """
    built: dict[str, PaymentStream] = {}
    problems = []
    for name, stream in catalogue.streams.items():
        if name in own and stream.kind != "changes":
            built[name] = stream
        elif name in own:
            table = captured.get(tables.get(stream.table, ""))
            built[name] = _typed(stream, dict(table.columns) if table is not None else {})
        else:
            try:
                found = fitted(stream, captured)
            except TransformError as error:
                problems.append(error)
            else:
                built |= {name: found} if found is not None else {}
    return replace(catalogue.of_streams(built), streams=built), problems


def fitted(stream: PaymentStream, captured: Mapping[str, Captured]) -> PaymentStream | None:
    """The stream with the types of its columns; None if it is a stream of changes whose table is not captured yet.

    Raises:
        TransformError: a captured table does not fit the stream, or rates are not captured; names the stream, table and
            column.
    """
    if stream.kind != "changes":
        return with_rates(stream, captured)
    table = captured.get(stream.table)
    if table is None:
        return None
    stream = with_rates(stream, captured)
    kinds = {name: kind for name, kind in table.columns if name in table.present or not table.present}
    entity = stream.entities[stream.entity]
    _check_columns(stream, kinds)
    if list(table.key) != [stream.id]:
        key = ", ".join(table.key) or "none"
        raise _wrong(
            stream, f"the id {stream.id} is not the key of bronze/{stream.table}, which is {key}", "name the key"
        )
    _check(stream, "amount", stream.amount, kinds, NUMBER, "a number")
    if stream.rates is not None:
        _check(stream, "currency", stream.rates.code, kinds, _TEXT, "a text")
    _check(stream, "time", stream.time, kinds, _TIME, "a timestamp or a date")
    if len(entity.key) > 1:
        raise _wrong(stream, f"its first entity {stream.entity} has a key of several columns", "put another one first")
    roles = [stream.id, stream.time, stream.amount, entity.key[0]]
    if len(set(roles)) < len(roles):
        raise _wrong(stream, f"id, time, amount and the key of {stream.entity} are not four columns", "name each once")
    if entity.exists_in is not None and entity.exists_in["table"] in captured:
        known, column = captured[entity.exists_in["table"]], entity.exists_in["column"]
        if list(known.key) != [column]:
            where = f"bronze/{entity.exists_in['table']}"
            raise _wrong(stream, f"exists_in names {column}, which is not the key of {where}", "name the key")
    _check_names(stream, captured)
    return _typed(stream, kinds)


def _typed(stream: PaymentStream, kinds: Mapping[str, str]) -> PaymentStream:
    return stream.model_copy(update={"fields": {column: kinds[column] for column in _used(stream) if column in kinds}})


def _wrong(stream: PaymentStream, problem: str, fix: str) -> TransformError:
    return TransformError(f"streams.yml, {stream.name}: {problem}", f"{fix}; the stream has no models until then")


def _used(stream: PaymentStream) -> dict[str, str]:
    """The columns that a stream names, each with its role."""
    used = {stream.id: "id", stream.time: "time", stream.amount: "amount"}
    used |= {stream.label: "label"} if stream.label else {}
    used |= {stream.rates.code: "currency"} if stream.rates else {}
    for name, entity in stream.entities.items():
        used |= dict.fromkeys(entity.key, f"key of {name}")
    return used


def _check_columns(stream: PaymentStream, kinds: Mapping[str, str]) -> None:
    for column, role in _used(stream).items():
        if column not in kinds:
            raise _wrong(
                stream,
                f"bronze/{stream.table} has no column {column} ({role}), expected one of "
                f"{', '.join(sorted(kinds)) or 'none'}",
                "correct the name",
            )


def _check(
    stream: PaymentStream, role: str, column: str, kinds: Mapping[str, str], fitting: re.Pattern[str], expected: str
) -> None:
    if not fitting.fullmatch(kinds[column]):
        found = f"the {role} {column} of bronze/{stream.table} is {kinds[column]}, expected {expected}"
        raise _wrong(stream, found, f"name another column as {role}")


def _check_names(stream: PaymentStream, captured: Mapping[str, Captured]) -> None:
    """Check that no column or table has the name of one in the stream's models."""
    own = _OF_VECTORS | {f"{stream.entity}_{what}" for what in ("entry", "count", "amount")}
    key = stream.entities[stream.entity].key[0]
    for column in _used(stream):
        if column.lower() in own or (column.lower() == "event_time" and column != stream.time):
            raise _wrong(stream, f"the models have a column {column} of their own", "rename it at the source")
    if key.lower() in _OF_FEATURES:
        raise _wrong(stream, f"gold/{stream.features} has a column {key} of its own", "rename it at the source")
    replicas = {f"{name.lower()}{suffix}" for name in captured for suffix in ("", "_history")}
    if (stream.ledger or "").lower() in replicas:
        raise _wrong(stream, f"silver/{stream.ledger} is already a captured table", "give the stream another name")
