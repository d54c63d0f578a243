"""Whether a table can be captured; if not, the reason and the statement that fixes it. Contacts no server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.postgres.errors import ReplicationRightError, SourceTableError
from fraud_lakehouse.sql_text import quoted

if TYPE_CHECKING:
    from fraud_lakehouse.sources.postgres.catalog import TableInfo

_LEAVE_OUT = "or leave it out by naming the others in FRAUD_POSTGRES_TABLES"


@dataclass(frozen=True)
class Ineligibility:
    """Why a table is ineligible for capture.

    Args:
        table: `schema.table` of the source.
        error: the problem and its fix.
        name: its bronze table; empty if the source has no such table.
        oid: 0 if the source has no such table.
        in_log: whether it is published: the log then has changes of it, which are skipped.
    """

    table: str
    error: SourceError
    name: str = ""
    oid: int = 0
    in_log: bool = False


@dataclass(frozen=True)
class Eligibility:
    """The facts in the catalog that decide a table's eligibility.

    Args:
        identity: `pg_class.relreplident`.
        persistence: `pg_class.relpersistence`.
        kind: `pg_class.relkind`.
        enters_schema: whether the user has USAGE on its schema.
        readable: whether the user has SELECT on it.
        has_hidden_rows: whether row level security applies to the user.
        unlogged_leaf: one of its partitions that is foreign or unlogged, or None.
        publication: the publication's name; empty if it does not exist yet.
        via_root: publish_via_partition_root of the publication.
        published: whether the table is in the publication.
        filtered: whether the publication has a row filter or column list for it.
        is_complete: whether the publication publishes every operation.
        may_publish: whether the user may add the table.
    """

    identity: str
    persistence: str
    kind: str
    enters_schema: bool
    readable: bool
    has_hidden_rows: bool
    unlogged_leaf: str | None
    publication: str
    via_root: bool
    published: bool
    filtered: bool
    is_complete: bool
    may_publish: bool


def ineligibility_of(info: TableInfo, eligibility: Eligibility, odd_name: str | None = None) -> Ineligibility | None:
    """Why the table is ineligible, or None; of several reasons, the one to fix first.

    Args:
        odd_name: the name of the table, its schema or a column that is not UTF-8, if any.
    """
    if odd_name is not None:
        problem = f"table {info.source_name} has a name that is not UTF-8: {odd_name}"
        error: SourceError | None = SourceTableError(
            problem, "ALTER ... RENAME it, with SET client_encoding = SQL_ASCII"
        )
    else:
        error = next(_errors(info, eligibility), None)
    if error is None:
        return None
    return Ineligibility(info.source_name, error, info.name, info.oid, in_log=eligibility.published)


def _errors(info: TableInfo, eligibility: Eligibility) -> Iterator[SourceError]:
    table = f"{quoted(info.schema)}.{quoted(info.table)}"
    if eligibility.kind not in ("r", "p"):
        kind = {"f": "foreign table", "v": "view", "m": "materialized view"}[eligibility.kind]
        yield SourceTableError(
            f"{info.source_name} is a {kind}, of which the server's log has no changes",
            "name the tables that it reads in FRAUD_POSTGRES_TABLES, or take it out",
        )
    if eligibility.persistence != "p":
        yield SourceTableError(
            f"table {info.source_name} is not written to the log (unlogged)", f"ALTER TABLE {table} SET LOGGED"
        )
    if not eligibility.enters_schema:
        yield SourceTableError(
            f"the user may not enter schema {info.schema} of table {info.source_name}",
            f"GRANT USAGE ON SCHEMA {quoted(info.schema)} TO the user of FRAUD_POSTGRES_DSN",
        )
    if not eligibility.readable:
        yield SourceTableError(
            f"the user may not read table {info.source_name}",
            f"GRANT SELECT ON {table} TO the user of FRAUD_POSTGRES_DSN",
        )
    if eligibility.has_hidden_rows:
        yield SourceTableError(
            f"row level security hides rows of table {info.source_name} from the user",
            "ALTER ROLE ... BYPASSRLS for the user of FRAUD_POSTGRES_DSN",
        )
    if eligibility.unlogged_leaf is not None:
        yield SourceTableError(
            f"partition {eligibility.unlogged_leaf} of table {info.source_name} is not in the log (foreign or"
            " unlogged)",
            f"ALTER TABLE {table} DETACH PARTITION ..., or ALTER TABLE ... SET LOGGED for that partition",
        )
    if eligibility.identity == "n":
        yield SourceTableError(
            f"table {info.source_name} has replica identity NOTHING: updates and deletes would not be logged",
            f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT",
        )
    if unseen := [name for name in info.key if name in info.left_out]:
        yield SourceTableError(
            f"the key of table {info.source_name} has the generated column {unseen[0]}, which the log does not carry",
            f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX ... without it, {_LEAVE_OUT}",
        )
    if not info.key:
        yield SourceTableError(
            f"table {info.source_name} has no primary key (or replica identity index) that identifies a row",
            f"ALTER TABLE {table} ADD PRIMARY KEY (...), or ALTER TABLE {table} REPLICA IDENTITY USING INDEX ...,"
            f" {_LEAVE_OUT}",
        )
    if eligibility.publication:
        yield from _publication_errors(info, eligibility, table)


def incomplete_error(publication: str) -> SourceTableError:
    """The error for a publication that does not publish every operation."""
    return SourceTableError(
        f"publication {publication} does not publish every operation",
        f"ALTER PUBLICATION {quoted(publication)} SET (publish = 'insert, update, delete, truncate')",
    )


def _publication_errors(info: TableInfo, eligibility: Eligibility, table: str) -> Iterator[SourceError]:
    publication = quoted(eligibility.publication)
    only = "" if info.partitioned else "ONLY "
    if not eligibility.is_complete:
        yield incomplete_error(eligibility.publication)
    if eligibility.filtered:
        yield SourceTableError(
            f"publication {eligibility.publication} has a row filter or a column list for {info.source_name}",
            f"ALTER PUBLICATION {publication} DROP TABLE {table}; ALTER PUBLICATION {publication} ADD TABLE"
            f" {only}{table}; or choose another name in FRAUD_POSTGRES_PUBLICATION",
        )
    if info.partitioned and not eligibility.via_root:
        yield SourceTableError(
            f"publication {eligibility.publication} publishes partitions under their own names, not as"
            f" {info.source_name}",
            f"ALTER PUBLICATION {publication} SET (publish_via_partition_root = true)",
        )
    if not (eligibility.published or eligibility.may_publish):
        yield ReplicationRightError(
            f"table {info.source_name} is not in publication {eligibility.publication}, and the user may not add it",
            f"let an owner of both run: ALTER PUBLICATION {publication} ADD TABLE {only}{table}",
        )
