"""Relation and truncate messages of pgoutput: which columns a table has at each message of a run."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fraud_lakehouse.sources.postgres.catalog import ColumnInfo, named_columns
from fraud_lakehouse.sources.postgres.names import shown
from fraud_lakehouse.sources.postgres.types import ColumnType


@dataclass(frozen=True)
class Relation:
    """A table described by a relation message; `key` has the columns of its replica identity."""

    oid: int
    schema: str
    table: str
    columns: tuple[ColumnInfo, ...]
    key: tuple[str, ...]
    full: bool


class Relations:
    """The versions of every relation within one run of messages, by oid, with the message at which each begins."""

    def __init__(self, versions: dict[int, list[tuple[int, Relation]]]) -> None:
        self._versions = versions

    @staticmethod
    def read(
        messages: Sequence[tuple[int, bytes]],
        base_types: Callable[[Sequence[int]], Mapping[int, ColumnType]],
        described: dict[int, Relation],
    ) -> Relations:
        """Read the relation messages, given as (row in the run, bytes) in order.

        `described` has the relations of earlier runs of the same stream, and is updated.
        """
        distinct = {data: _parse(data) for _, data in messages}
        oids = [column.type.oid for relation in distinct.values() for column in relation.columns]
        domains = base_types(oids) if oids else {}
        versions = {oid: [(0, relation)] for oid, relation in described.items()}
        for row, data in messages:
            relation = _resolve(distinct[data], domains)
            known = versions.setdefault(relation.oid, [])
            if not known or known[-1][1] != relation:
                known.append((row, relation))
            described[relation.oid] = relation
        return Relations(versions)

    def versions(self, oid: int) -> list[tuple[int, int, Relation]]:
        """(first row, row after the last, relation) of each version, in order."""
        known = self._versions[oid]
        ends = [first for first, _ in known[1:]] + [2**32 - 1]
        return [(first, end, relation) for (first, relation), end in zip(known, ends, strict=True)]

    def latest(self, oid: int) -> Relation:
        """The version at the end of the run."""
        return self._versions[oid][-1][1]

    @staticmethod
    def truncates(messages: Sequence[tuple[int, bytes]]) -> dict[int, list[int]]:
        """Rows of the truncate messages, by the oid of the relation; one message may name several."""
        found: dict[int, list[int]] = {}
        for row, data in messages:
            (count,) = struct.unpack_from(">i", data, 1)
            for oid in struct.unpack_from(f">{count}I", data, 6):
                found.setdefault(oid, []).append(row)
        return found


def _parse(data: bytes) -> Relation:
    """R, oid, schema, table, identity, count, then per column: flags, name, type oid, type modifier."""
    (oid,) = struct.unpack_from(">I", data, 1)
    schema, offset = _string(data, 5)
    table, offset = _string(data, offset)
    identity, count = struct.unpack_from(">cH", data, offset)
    offset += 3
    columns: list[tuple[str, ColumnType]] = []
    in_key = []
    for _ in range(count):
        is_key = data[offset] & 1
        name, offset = _string(data, offset + 1)
        type_oid, modifier = struct.unpack_from(">Ii", data, offset)
        offset += 8
        columns.append((name, ColumnType(type_oid, modifier)))
        in_key.append(is_key)
    named = tuple(named_columns(columns))
    key = tuple(column.name for column, is_key in zip(named, in_key, strict=True) if is_key)
    return Relation(oid, schema or "pg_catalog", table, named, key, identity == b"f")


def _string(data: bytes, offset: int) -> tuple[str, int]:
    end = data.index(0, offset)
    return shown(data[offset:end].decode(errors="surrogateescape")), end + 1


def _resolve(relation: Relation, domains: Mapping[int, ColumnType]) -> Relation:
    columns = tuple(replace(column, type=domains.get(column.type.oid, column.type)) for column in relation.columns)
    return replace(relation, columns=columns)
