"""A table's publication epoch: identifies its uninterrupted membership in the publication.

Read from the catalogs: the view pg_publication_tables opens every table and so waits for locked ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from fraud_lakehouse.sources.postgres.catalog import TableInfo

SCHEMAS_PUBLISHED = 150000  # the first version whose publications can have whole schemas

MEMBER = """
case when p.puballtables or r.oid is not null or s.oid is not null
     then p.oid::text || '/' || coalesce(r.oid::text, s.oid::text, '-') || '/' || p.xmin::text end
"""
"""The publication epoch of pg_class `c` after `joins`; null if it is not published.

Altering the publication changes its row's xmin: what it left out meanwhile is in no log.
"""

_MEMBERS = "select c.oid::int8, {member} from pg_class c {joins} where c.oid = any(%(oids)s::oid[])"


def joins(connection: psycopg.Connection[Any]) -> str:
    """SQL that joins pg_class `c` to the publication %(publication)s `p` and the table's or schema's entry in it."""
    nothing = "(select null::oid as oid, null::oid as pnpubid, null::oid as pnnspid where false)"
    schemas = "pg_publication_namespace" if connection.info.server_version >= SCHEMAS_PUBLISHED else nothing
    return f"""
  left join pg_publication p on p.pubname = %(publication)s
  left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
  left join {schemas} s on s.pnpubid = p.oid and s.pnnspid = c.relnamespace
"""


def memberships(connection: psycopg.Connection[Any], name: str, tables: Iterable[TableInfo]) -> dict[str, str]:
    """Publication epochs by bronze name; unpublished tables are absent.

    A table that is removed and added again gets a new epoch: its changes in between are in no log.
    """
    names = {table.oid: table.name for table in tables}
    query = _MEMBERS.format(member=MEMBER, joins=joins(connection))
    rows = connection.execute(query, {"publication": name, "oids": list(names)}).fetchall()
    return {names[oid]: member for oid, member in rows if member is not None}
