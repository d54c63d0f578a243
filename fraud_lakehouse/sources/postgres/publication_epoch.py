"""Which tables a publication has, and since when.

From the catalogs themselves: the view pg_publication_tables opens every table and so waits for one that is locked.
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
"""The membership of pg_class `c` behind `joins`; null without one.

A change of the publication's options gives its row another xmin: what it left out for a while is in no log.
"""

_MEMBERS = "select c.oid::int8, {member} from pg_class c {joins} where c.oid = any(%(oids)s::oid[])"


def joins(connection: psycopg.Connection[Any]) -> str:
    """SQL that joins to pg_class `c` the publication %(publication)s `p`, and the table's or schema's place in it."""
    nothing = "(select null::oid as oid, null::oid as pnpubid, null::oid as pnnspid where false)"
    schemas = "pg_publication_namespace" if connection.info.server_version >= SCHEMAS_PUBLISHED else nothing
    return f"""
  left join pg_publication p on p.pubname = %(publication)s
  left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
  left join {schemas} s on s.pnpubid = p.oid and s.pnnspid = c.relnamespace
"""


def memberships(connection: psycopg.Connection[Any], name: str, tables: Iterable[TableInfo]) -> dict[str, str]:
    """By bronze name, what tells a table's membership from any earlier one; a table that is not published is absent.

    A table taken out and put back is another member: its changes between the two are in no log.
    """
    names = {table.oid: table.name for table in tables}
    query = _MEMBERS.format(member=MEMBER, joins=joins(connection))
    rows = connection.execute(query, {"publication": name, "oids": list(names)}).fetchall()
    return {names[oid]: member for oid, member in rows if member is not None}
