"""Debezium's change events in JSON: with and without the schema inside, and flattened by its unwrap transform.

The form of each record is detected from the record, since a connector may be configured anew. What is not declared of a
row is not kept. Avro is `avro.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.formats.events import Events
from fraud_lakehouse.sources.kafka.formats.json import RecordError, reason_of
from fraud_lakehouse.sources.kafka.formats.plan import Plan, attributes, make_plan, spelling
from fraud_lakehouse.sources.kafka.formats.position import POSITION_NAMES, Source, position_of, time_of

Headers = Sequence[tuple[str, bytes | str | None]] | None
"""A record's headers."""

_OPERATIONS = frozenset("rcudt")
_ANY = msgspec.json.Decoder(float_hook=Decimal)
_SCHEMA_AND_PAYLOAD = {"schema", "payload"}


@dataclass(frozen=True, eq=False)
class _Shape:
    """A form of records: `decode` reads one, or fails with one of another form; `plan` reads rows.

    Args:
        names: those of declared fields, as of `spelling`.
        keys: of a flattened event, all of its keys.
        has_schema: the record is {"schema": …, "payload": …}; the plan then goes by the schema.
        plan: of rows without a schema.
    """

    names: Mapping[str, str]
    keys: tuple[str, ...]
    decode: Callable[[bytes], Any]
    has_schema: bool
    is_envelope: bool
    plan: Plan

    def fits(self, found: Any) -> bool:
        """Whether what was decoded has this form; of an envelope the decoder has seen to that."""
        return self.is_envelope or tuple(found.payload if self.has_schema else found) == self.keys


class JsonEvents:
    """Reads values of one topic."""

    def __init__(self, topic: TopicConfig) -> None:
        self._fields = topic.fields
        self._modes = topic.changes
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._shape: _Shape | None = None
        self._plans: dict[tuple[Any, bytes], Plan] = {}

    def add(self, events: Events, number: int, value: bytes, headers: Headers) -> bool:
        """Add what a record says; whether that is all: else it is a tombstone, or a delete whose row its key has.

        Raises:
            RecordError: it cannot be read.
        """
        shape, found = self._decode(value)
        if shape is None:
            return False
        plan = shape.plan
        if shape.has_schema:
            plan, found = self._plan_of(shape, bytes(found.schema)), found.payload
        if shape.is_envelope:
            return add_envelope(events, number, plan, found.op, found.before, found.after, found.source)
        return add_unwrapped(events, number, plan, found, headers)

    def _decode(self, value: bytes) -> tuple[_Shape | None, Any]:
        shape = self._shape
        if shape is not None:
            try:
                found = shape.decode(value)
                if shape.fits(found):
                    return shape, found
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass
        try:
            shape = self._shape_of(_ANY.decode(value))
            if shape is None:
                return None, None
            self._shape = shape
            return shape, shape.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(reason_of(error)) from None

    def _shape_of(self, record: Any) -> _Shape | None:
        """The form of a record; None of a tombstone with a schema."""
        has_schema = isinstance(record, dict) and record.keys() == _SCHEMA_AND_PAYLOAD
        payload = record["payload"] if has_schema else record
        if payload is None and has_schema:
            return None
        if not isinstance(payload, dict):
            raise RecordError(f"expected a change event, got {type(payload).__name__}")
        is_envelope = "op" in payload and ("after" in payload or "before" in payload)
        row = (payload.get("after") or payload.get("before") or {}) if is_envelope else payload
        if not isinstance(row, dict):
            raise RecordError(f"$.after: expected an object, got {type(row).__name__}")
        names = spelling(self._fields, [*row])
        if is_envelope and not row and self._shape is not None and self._shape.is_envelope:
            names = dict(self._shape.names)  # a truncate has no names
        keys = () if is_envelope else tuple(row)
        known = (has_schema, is_envelope, tuple(names.items()), keys)
        if known not in self._shapes:
            self._shapes[known] = self._make(names, keys, has_schema=has_schema, is_envelope=is_envelope)
        return self._shapes[known]

    def _make(self, names: dict[str, str], keys: tuple[str, ...], *, has_schema: bool, is_envelope: bool) -> _Shape:
        if is_envelope:
            structure = attributes(self._fields)
            required = {one.path for one in self._fields if not one.optional}
            renamed = {structure[first]: name for first, name in names.items()}
            after = _structure("Row", renamed, {structure[first] for first in names if first in required})
            before = _structure("Before", renamed, set())
            payload: Any = msgspec.defstruct(
                "Envelope",
                [("op", str), ("before", before | None, None), ("after", after | None, None), ("source", Source)],
                kw_only=True,
                gc=False,
            )
        else:
            payload = dict[str, Any]
        if has_schema:
            payload = msgspec.defstruct("WithSchema", [("schema", msgspec.Raw), ("payload", payload)], gc=False)
        plan = make_plan(self._fields, self._modes, None, None if is_envelope else names)
        decode = msgspec.json.Decoder(payload, float_hook=Decimal).decode
        return _Shape(names, keys, decode, has_schema, is_envelope, plan)

    def _plan_of(self, shape: _Shape, schema: bytes) -> Plan:
        plan = self._plans.get((shape, schema))
        if plan is None:
            declared = _ANY.decode(schema)
            names = dict(shape.names)
            schemas = schemas_of(declared)
            if shape.is_envelope:
                schemas = schemas_of(schemas.get("after", schemas.get("before")))
                schemas = {first: schemas.get(name) for first, name in names.items()}
            plan = make_plan(self._fields, self._modes, schemas, None if shape.is_envelope else names)
            self._plans[shape, schema] = plan
        return plan


def schemas_of(schema: Any) -> dict[str, Any]:
    """By name, the schemas of a structure's fields.

    Raises:
        RecordError: it is no schema of Kafka Connect's JSON converter.
    """
    try:
        return {one["field"]: one for one in schema["fields"]}
    except (KeyError, TypeError):
        raise RecordError("$.schema: expected the schema of a structure") from None


def add_envelope(events: Events, number: int, plan: Plan, op: Any, before: Any, after: Any, source: Any) -> bool:
    """Add a change event; whether that is all: a delete may lack its row.

    Raises:
        RecordError: its operation or position cannot be read, or it has no row.
    """
    if not isinstance(op, str) or op not in _OPERATIONS:
        raise RecordError(f"$.op: expected one of r, c, u, d, t, got {str(op)[:80]!r}")
    row = before if op == "d" else after
    if row is None and op not in "dt":
        raise RecordError("$.after: expected the row, got null")
    try:
        events.lsns[number], events.seqs[number] = position_of(source)
        events.times[number] = time_of(source)
    except ValueError as error:
        raise RecordError(str(error)) from None
    events.ops[number] = op
    if op == "t":
        return True
    if row is not None:
        events.add_row(number, plan, row, before if op == "u" else None)
    return row is not None


def add_unwrapped(events: Events, number: int, plan: Plan, row: Mapping[str, Any], headers: Headers) -> bool:
    """Add a flattened change event, whose operation and position are fields or headers with __ before their names.

    Raises:
        RecordError: as `add_envelope`.
    """
    texts = {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in headers or ()
    }
    deleted, op = (row.get(name, texts.get(name)) for name in ("__deleted", "__op"))
    if op is None and deleted is None:
        raise RecordError(
            "expected op and source (a change event), or __op or __deleted (a flattened one), got neither"
        )
    if deleted in ("true", True):
        op = "d"
    known = {}
    for name in POSITION_NAMES:
        value = next((found[key] for key in _keys_of(name) for found in (row, texts) if key in found), None)
        if value is not None:
            known[name] = value
    source = Source(**known)
    is_update = op in ("u", None)
    whole = add_envelope(events, number, plan, "c" if is_update else op, row, row, source)
    if is_update:  # without the row before it
        events.ops[number] = "u"
    if source.lsn is source.scn is source.file is source.change_lsn is source.commit_lsn is msgspec.UNSET:
        events.lsns[number] = events.seqs[number] = None  # the transform's own clock is no position
    return whole


def _keys_of(name: str) -> tuple[str, str]:
    """What the unwrap transform calls a value of the source: as it was asked for."""
    return f"__source_{name}", f"__{name}"


def _structure(name: str, renamed: Mapping[str, str], required: set[str]) -> Any:
    fields: Sequence[Any] = [
        (attribute, Any) if attribute in required else (attribute, Any, None) for attribute in renamed
    ]
    return msgspec.defstruct(name, fields, rename=dict(renamed), kw_only=True, gc=False)
