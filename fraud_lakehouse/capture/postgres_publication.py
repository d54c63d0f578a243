"""The publication: which tables the slot's log carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from fraud_lakehouse.capture.postgres_catalog import TableInfo
from fraud_lakehouse.capture.postgres_errors import ReplicationRightError
from fraud_lakehouse.capture.postgres_slot import words_of


def ensure_publication(connection: psycopg.Connection[Any], name: str, tables: Sequence[TableInfo]) -> None:
    """Create the publication, or add the tables it lacks; tables it has besides stay.

    Raises:
        ReplicationRightError: the user may not; quotes the statement for somebody who may.
    """
    known = connection.execute("select oid, puballtables from pg_publication where pubname = %s", (name,)).fetchone()
    missing = list(tables)
    if known is not None:
        rows = connection.execute(
            "select prrelid::int8 from pg_publication_rel where prpubid = %s", (known[0],)
        ).fetchall()
        missing = [table for table in tables if not known[1] and (table.oid,) not in rows]
    if not missing:
        return
    listed = sql.SQL(", ").join(table.relation() for table in missing)
    create = "create publication {} for table {} with (publish_via_partition_root = true)"
    statement = sql.SQL(create if known is None else "alter publication {} add table {}").format(
        sql.Identifier(name), listed
    )
    try:
        connection.execute(statement)
    except errors.InsufficientPrivilege as error:
        raise ReplicationRightError(
            f"the user may not publish the tables: {words_of(error)}",
            f"let an owner of the tables run: {statement.as_string(connection)}",
        ) from None
