"""Tables that inherit from a captured one (`INHERITS`, not partitions) and are not captured themselves."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import psycopg

from fraud_lakehouse.sources.postgres.eligibility import Ineligibility
from fraud_lakehouse.sources.postgres.errors import SourceTableError
from fraud_lakehouse.sources.postgres.names import shown

_CHILDREN = """
with recursive children(parent, oid) as (
  select p.oid, i.inhrelid from pg_class p join pg_inherits i on i.inhparent = p.oid
   where p.oid = any(%(oids)s::oid[]) and p.relkind = 'r'
   union
  select h.parent, i.inhrelid from children h join pg_inherits i on i.inhparent = h.oid
)
select h.parent::regclass::text, c.oid::int8, n.nspname, c.relname
  from children h join pg_class c on c.oid = h.oid join pg_namespace n on n.oid = c.relnamespace
 where c.oid <> all(%(oids)s::oid[]) order by n.nspname, c.relname, h.parent
"""


def uncaptured_children(connection: psycopg.Connection[Any], oids: Collection[int]) -> list[Ineligibility]:
    """A warning for each table that inherits from one of `oids` and is not one of them.

    A query of the parent includes the rows of its children, but each row is stored, logged and captured with its own
    table.
    """
    found: dict[int, Ineligibility] = {}
    for relation, oid, schema, table in connection.execute(_CHILDREN, {"oids": list(oids)}).fetchall():
        name, parent = f"{shown(schema)}.{shown(table)}", shown(relation)
        error = SourceTableError(
            f"table {name} inherits from {parent} and is not captured: queries of {parent} show its rows, bronze not",
            f"name {name} in FRAUD_POSTGRES_TABLES in addition to the others: it becomes a table of its own",
        )
        found.setdefault(oid, Ineligibility(name, error, oid=oid))
    return list(found.values())
