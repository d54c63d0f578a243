"""Checks the catalogue against the models it names: they exist, have the columns, and the types fit.

Types are those declared in the models' yml. DuckDB infers the type of each expression; no row is read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import yaml

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import FILE, Catalogue, Feature
from fraud_lakehouse.features.filtered import filtered_measure
from fraud_lakehouse.features.needs import columns_of, functions_of
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.transform.scan import empty_sql
from fraud_lakehouse.transform.stream_checks import check_filtered

Types = Mapping[str, str]
Column = dict[str, Any]
_NUMBER = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL.*")


@dataclass(frozen=True)
class _Models:
    """The columns that the models' yml files declare."""

    project: Path
    generated: Mapping[str, Sequence[Column]]

    def types(self, model: str, where: str) -> dict[str, str]:
        """The types of the columns that a model's yml declares."""
        return {one["name"]: one["data_type"] for one in self.columns(model, where) if "data_type" in one}

    def columns(self, model: str, where: str) -> Sequence[Column]:
        """The columns that a model's yml declares. In a prepared project, feature columns carry the feature's meta."""
        if model in self.generated:
            return self.generated[model]
        for path in sorted(self.project.glob(f"models/*/{model}.yml")):
            for described in yaml.safe_load(path.read_text()).get("models") or []:
                if described["name"] == model:
                    return described.get("columns") or []
        raise TransformError(f"{where}: there is no model {model!r}", f"expected models/*/{model}.yml")


def check_models(project: Path, catalogue: Catalogue, generated: Mapping[str, Sequence[Column]]) -> None:
    """Check that the project's models can compute the catalogue's features.

    Args:
        project: the folder of the dbt project.
        generated: columns, as in a yml, of generated models, which have no file in the project.

    Raises:
        TransformError: they cannot; names the stream, measure or feature, and what was expected.
    """
    models = _Models(project, generated)
    with duckdb.connect() as connection:
        for name, stream in catalogue.streams.items():
            measures = _measures(connection, models, name, stream)
            if not any(one.stream == name for one in catalogue.of_table(stream.vectors)):
                raise TransformError(f"{FILE}, stream {name!r}: {stream.vectors} has no feature", "add one")
            for table in (stream.vectors, *stream.tables):
                _check_features(connection, models, stream, table, catalogue.of_table(table), measures)


def _measures(connection: duckdb.DuckDBPyConnection, models: _Models, name: str, stream: PaymentStream) -> Types:
    """The types of a stream's measures, as the features see them."""
    rows = stream.ledger or stream.rows
    types = models.types(rows, f"{FILE}, stream {name!r}: rows")
    for part, column in _columns(stream):
        if column not in types:
            raise TransformError(
                f"{FILE}, stream {name!r}: {part} names the column {column!r}, which {rows} does not have",
                f"use one of {', '.join(types)}",
            )
    found = {}
    for measure, described in stream.measures.items():
        where = f"{FILE}, measure {measure!r} of {name!r}"
        kind = _yielded(connection, described.expression, types, where)
        if described.decimals is not None and not _NUMBER.fullmatch(kind):
            raise TransformError(
                f"{where}: its expression is {kind}, and only numbers have decimals",
                "leave decimals out, or give an expression that is a number",
            )
        found[measure] = "DOUBLE" if described.decimals is not None else kind
    return found


def _check_features(
    connection: duckdb.DuckDBPyConnection,
    models: _Models,
    stream: PaymentStream,
    table: str,
    features: Sequence[Feature],
    measures: Types,
) -> None:
    own: set[str] = set()
    for model in (table, stream.model_of(table)) if features else ():
        described = models.columns(model, f"{FILE}, feature {features[0].name!r}: the table {table}")
        own |= {one["name"] for one in described if "entity" not in one.get("config", {}).get("meta", {})}
    if table in stream.tables:
        for feature in features:
            if feature.name in own and feature.name not in stream.tables[table].must_have:
                raise TransformError(
                    f"{FILE}, feature {feature.name!r}: {table} has a column of that name already",
                    "rename the feature, or list it in must_have if that column is the feature",
                )
    for feature in {one.filter: one for one in reversed(features) if one.filter is not None}.values():
        _check_filter(connection, models, stream, feature)
    known = dict(measures) | {one.name: one.data_type for one in features}
    for feature in features:
        if feature.expression is not None:
            cast = f"cast({feature.expression} as {feature.data_type})"
            _yielded(connection, cast, known, f"{FILE}, feature {feature.name!r}")


def _check_filter(
    connection: duckdb.DuckDBPyConnection, models: _Models, stream: PaymentStream, feature: Feature
) -> None:
    """Check that a feature's filter is a condition over columns of one row."""
    assert feature.filter is not None
    where = f"{FILE}, feature {feature.name!r}"
    rows = stream.ledger or stream.rows
    types = {name: kind for name, kind in models.types(rows, where).items() if _is_own(stream, name)}
    for column in columns_of(feature.filter):
        if column not in types:
            close = difflib.get_close_matches(column, types, n=1)
            more = "; filters on changes can use only columns in streams.yml" if stream.kind == "changes" else ""
            raise TransformError(
                f"{where}: its filter names {column!r}, which is no column of the rows of {stream.name}",
                f"did you mean {close[0]}?" if close else f"use one of {', '.join(types)}{more}",
            )
        check_filtered(stream, column, where)
    query = (
        "select distinct function_name from duckdb_functions() where list_contains(?, function_name)"
        " and (function_type = 'aggregate' or stability <> 'CONSISTENT')"
    )
    for (name,) in connection.execute(query, [list(functions_of(feature.filter))]).fetchall():
        raise TransformError(
            f"{where}: its filter calls {name}, which needs more than a single row",
            "compare columns of the row with each other or with constants",
        )
    kind = _yielded(connection, feature.filter, types, where)
    if kind != "BOOLEAN":
        raise TransformError(
            f"{where}: its filter {feature.filter!r} is {kind}, not true or false", "write a condition, such as amt < 2"
        )
    _yielded(connection, filtered_measure(stream, feature)[1].expression, types, where)


def _is_own(stream: PaymentStream, column: str) -> bool:
    """Whether filters may use this column of the model.

    Events: every field of the record. Changes: the columns named in streams.yml, which the ledger stores.
    """
    if stream.kind == "changes":
        return column in {stream.label, *(name for _, name in _columns(stream))} - {stream.id}
    return (
        column != stream.id and not column.startswith("_") and column not in ("is_amount_excluded", "is_time_excluded")
    )


def _columns(stream: PaymentStream) -> list[tuple[str, str]]:
    keys = [(f"entity {name!r}", column) for name, entity in stream.entities.items() for column in entity.key]
    return [("id", stream.id), ("time", stream.time), ("amount", stream.amount), *keys]


def _yielded(connection: duckdb.DuckDBPyConnection, expression: str, types: Types, where: str) -> str:
    """The type of an expression over columns of these types."""
    query = f"select {expression} from ({empty_sql(list(types.items()))})"
    try:
        row = connection.execute(f"describe {query}").fetchone()
    except duckdb.Error as error:
        raise TransformError(
            f"{where}: {expression!r} cannot be computed: {str(error).splitlines()[0]}", "correct its expression"
        ) from None
    assert row is not None
    return str(row[1])
