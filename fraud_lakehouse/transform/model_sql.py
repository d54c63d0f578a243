"""Prepares a model's SQL for storing: casts and filters around it; its columns and relation, cached by text."""

from __future__ import annotations

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.storage.schemas import COMMIT
from fraud_lakehouse.transform import writer

INTERNAL = (writer.DELETE, writer.IS_NEW)
"""Columns that tell the writer what to do with a row; they are not stored."""

_MOST_KNOWN = 500


class Queries:
    """Caches facts about queries by their text: equal texts have equal columns.

    Args:
        connection: whose cursors kept relations belong to.
    """

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection = connection
        self._columns: dict[str, list[tuple[str, str]]] = {}
        self._relations: dict[str, DuckDBPyRelation] = {}

    def columns(self, cursor: DuckDBPyConnection, sql: str) -> list[tuple[str, str]]:
        """Name and type of each column of a query; finding them out costs as much as planning it."""
        if len(self._columns) > _MOST_KNOWN:
            self._columns.clear()
        if sql not in self._columns:
            self._columns[sql] = [(row[0], str(row[1])) for row in cursor.execute(f"describe {sql}").fetchall()]
        return self._columns[sql]

    def relation(self, cursor: DuckDBPyConnection, sql: str, *, is_kept: bool) -> DuckDBPyRelation:
        """The relation of a query; cached if its columns are cast, since their types then stay the same.

        Each run plans it again. Creating it plans it once more, which took a third of a fast-path build.
        """
        if not is_kept:
            return cursor.sql(sql)
        if len(self._relations) > _MOST_KNOWN:
            self._relations.clear()
        if sql not in self._relations:
            self._relations[sql] = self._connection.cursor().sql(sql)
        return self._relations[sql]


def typed(sql: str, actual: list[str], declared: dict[str, str], model: str, *, may_have_more: bool = False) -> str:
    """The model's SQL with each declared column cast to its declared type, so that the table's schema never drifts.

    Args:
        may_have_more: whether undeclared columns are kept unchanged.
    """
    if not declared:
        return sql
    unknown = [name for name in actual if name not in declared and name not in INTERNAL and not may_have_more]
    absent = [name for name in declared if name not in actual]
    if unknown or absent:
        raise TransformError(
            f"model {model} and its yml disagree: undeclared columns {unknown}, declared but not selected {absent}",
            "declare every column of the model with its data_type",
        )
    parts = [
        f"cast({quoted(name)} as {declared[name]}) as {quoted(name)}" if declared.get(name) else quoted(name)
        for name in actual
    ]
    return f"select {', '.join(parts)} from ({sql})"


def without_number(names: list[str], sql: str) -> tuple[list[str], str]:
    """A query's columns and text without its upstream's commit numbers: the writer adds the rows' own."""
    if COMMIT not in names:
        return names, sql
    kept = [name for name in names if name != COMMIT]
    return kept, f"select {', '.join(map(quoted, kept))} from ({sql})"


def stored_only(sql: str, actual: list[str]) -> str:
    """The rows and columns that are stored if nothing needs to be merged."""
    internal = [name for name in actual if name in INTERNAL]
    if not internal:
        return sql
    kept = ", ".join(quoted(name) for name in actual if name not in INTERNAL)
    where = f" where not {writer.DELETE}" if writer.DELETE in internal else ""
    return f"select {kept} from ({sql}){where}"
