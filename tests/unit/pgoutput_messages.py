"""Builds pgoutput messages byte by byte, as the protocol's documentation lays them out."""

from __future__ import annotations

import struct
from dataclasses import dataclass

UNCHANGED = object()
EPOCH_2000 = 946_684_800_000_000
Value = str | None | object


@dataclass(frozen=True)
class Table:
    """A relation: columns as (name, type oid, modifier); `key` names those of the replica identity."""

    oid: int
    name: str
    columns: tuple[tuple[str, int, int], ...]
    key: tuple[str, ...]
    identity: str = "d"
    schema: str = "public"

    def relation(self) -> bytes:
        head = b"R" + struct.pack(">I", self.oid) + self.schema.encode() + b"\0" + self.name.encode() + b"\0"
        body = self.identity.encode() + struct.pack(">H", len(self.columns))
        for name, oid, modifier in self.columns:
            flag = 1 if name in self.key or self.identity == "f" else 0
            body += bytes([flag]) + name.encode() + b"\0" + struct.pack(">Ii", oid, modifier)
        return head + body

    def insert(self, *row: Value) -> bytes:
        return b"I" + struct.pack(">I", self.oid) + b"N" + row_bytes(row)

    def update(self, *row: Value, old: tuple[Value, ...] | None = None) -> bytes:
        before = b"" if old is None else self._mark() + row_bytes(old)
        return b"U" + struct.pack(">I", self.oid) + before + b"N" + row_bytes(row)

    def delete(self, *old: Value) -> bytes:
        return b"D" + struct.pack(">I", self.oid) + self._mark() + row_bytes(old)

    def _mark(self) -> bytes:
        return b"O" if self.identity == "f" else b"K"


def row_bytes(row: tuple[Value, ...]) -> bytes:
    parts = [struct.pack(">H", len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            raw = str(value).encode()
            parts.append(b"t" + struct.pack(">i", len(raw)) + raw)
    return b"".join(parts)


def truncate(*tables: Table) -> bytes:
    return b"T" + struct.pack(f">ib{len(tables)}I", len(tables), 0, *(table.oid for table in tables))


def transaction(end_lsn: int, *changes: bytes, committed_us: int = 1_700_000_000_000_000) -> list[bytes]:
    """Begin, changes, Commit; `end_lsn` is where the commit record ends."""
    moment = committed_us - EPOCH_2000
    begin = b"B" + struct.pack(">qqI", end_lsn - 8, moment, 700)
    commit = b"C" + struct.pack(">bqqq", 0, end_lsn - 8, end_lsn, moment)
    return [begin, *changes, commit]
