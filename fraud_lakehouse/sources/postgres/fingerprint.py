"""A table's catalog fingerprint, which reveals changes of its rows that are not in the log.

The log has no message for rows affected by a column added with a default, a rewritten type, or a partition attached,
detached or truncated. The fingerprint is compared with the one from when the lake last matched the source.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

_COLUMNS = """
select attrelid::int8, attnum, attname, atttypid::int8, atttypmod, xmin::text
  from pg_attribute
 where attrelid = any(%s::oid[]) and attnum > 0 and not attisdropped
 order by attrelid, attnum
"""

# An exclusively locked partition counts as non-empty: pg_relation_size and pg_partition_tree would wait for the lock.
_FILES = """
with recursive tree(root, oid) as (
  select root, root from unnest(%s::oid[]) as root
  union all
  select tree.root, i.inhrelid from tree join pg_inherits i on i.inhparent = tree.oid
   where not coalesce((to_jsonb(i) ->> 'inhdetachpending')::bool, false)
)
select tree.root::int8, leaf.oid::int8, pg_relation_filenode(leaf.oid)::int8,
       leaf.oid <> tree.root
       and not exists (select from pg_locks k where k.relation = leaf.oid and k.mode = 'AccessExclusiveLock')
       and pg_relation_size(leaf.oid) = 0
  from tree
  join pg_class leaf on leaf.oid = tree.oid and leaf.relkind <> 'p'
 order by 1, 2
"""

_PLAIN_FILES = "select oid::int8, oid::int8, pg_relation_filenode(oid)::int8, false from pg_class where oid = any(%s)"


@dataclass(frozen=True)
class Column:
    """A column: its name, its type and modifier, and the transaction that last altered it."""

    name: str
    type: int
    modifier: int
    altered_by: str


@dataclass(frozen=True)
class Shape:
    """A table's catalog fingerprint.

    Args:
        oid: the table's.
        columns: by attribute number, which is never reused within a table.
        files: file number of the table, or of each leaf partition, by oid; a rewrite or truncate changes it.
        empty: leaf partitions without a row.
        key: the columns that identify a row.
    """

    oid: int
    key: list[str]
    columns: dict[int, Column]
    files: dict[int, int | None]
    empty: frozenset[int]

    @staticmethod
    def read(text: str) -> Shape:
        """The fingerprint from its text."""
        known: dict[str, Any] = json.loads(text)
        return Shape(
            known["oid"],
            known["key"],
            {int(number): Column(*column) for number, column in known["columns"].items()},
            {int(oid): file for oid, file in known["files"].items()},
            frozenset(known["empty"]),
        )

    def text(self) -> str:
        """The fingerprint as JSON; equal fingerprints have equal texts."""
        columns = {str(n): [c.name, c.type, c.modifier, c.altered_by] for n, c in self.columns.items()}
        files = {str(oid): file for oid, file in self.files.items()}
        facts = {"oid": self.oid, "key": self.key, "columns": columns, "files": files, "empty": sorted(self.empty)}
        return json.dumps(facts, ensure_ascii=False)

    def silent_change(self, before: Shape) -> str | None:
        """Why rows may have changed since `before` without a message in the log; None if there is no sign of it."""
        if self.oid != before.oid:
            return f"the table was dropped and recreated (oid {before.oid}, now {self.oid})"
        if self.key != before.key:
            return f"its key is now {', '.join(self.key)}"
        for number, column in self.columns.items():
            old = before.columns.get(number)
            if old is None:
                return f"column {column.name} was added"
            if old.name != column.name:
                return f"column {old.name} was renamed to {column.name}"
            if (old.type, old.modifier) != (column.type, column.modifier):
                return f"the type of column {column.name} changed"
        if gone := [column.name for number, column in before.columns.items() if number not in self.columns]:
            return f"column {gone[0]} was dropped"
        return self._silent_move(before)

    def _silent_move(self, before: Shape) -> str | None:
        is_partitioned = before.files.keys() != {before.oid} or self.files.keys() != {self.oid}
        if not is_partitioned:
            # TRUNCATE and VACUUM FULL change only the files; a column's settings change only the column.
            is_rewritten = self.files != before.files and self.columns != before.columns
            return "a column's values were rewritten" if is_rewritten else None
        if gone := before.files.keys() - self.files.keys():
            return f"{len(gone)} partition(s) were detached or dropped"
        if [oid for oid in self.files if oid not in before.files and oid not in self.empty]:
            return "a partition with rows was attached"
        if [oid for oid, file in before.files.items() if self.files[oid] != file]:
            return "a partition was truncated or rewritten"
        return None


def read_shapes(
    connection: psycopg.Connection[Any], keys: Mapping[int, Sequence[str]], roots: Collection[int]
) -> dict[int, str]:
    """The text of each table's fingerprint, by oid.

    Args:
        keys: key columns by table oid.
        roots: the oids that are roots of partitions.
    """
    plain, partitioned = [oid for oid in keys if oid not in roots], list(roots)
    columns: dict[int, dict[int, Column]] = {}
    for oid, number, *column in connection.execute(_COLUMNS, ([*plain, *partitioned],)).fetchall():
        columns.setdefault(oid, {})[number] = Column(*column)
    files: dict[int, dict[int, int | None]] = {}
    empty: dict[int, set[int]] = {}
    rows = connection.execute(_PLAIN_FILES, (plain,)).fetchall()
    if partitioned:
        rows += connection.execute(_FILES, (partitioned,)).fetchall()
    for root, leaf, file, is_empty in rows:
        files.setdefault(root, {})[leaf] = file
        if is_empty:
            empty.setdefault(root, set()).add(leaf)
    return {
        oid: Shape(oid, list(key), columns.get(oid, {}), files.get(oid, {}), frozenset(empty.get(oid, ()))).text()
        for oid, key in keys.items()
    }
