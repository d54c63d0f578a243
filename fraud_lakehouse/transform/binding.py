"""The catalogue against the models it names: whether they are there, have the columns, and in types that fit.

Types are those that the models' yml declares; DuckDB is asked what an expression over them yields, no row is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import yaml

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import FILE, Catalogue, Feature, Source
from fraud_lakehouse.transform.scan import empty_sql

Types = Mapping[str, str]
_NUMBER = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL.*")


def check_models(project: Path, catalogue: Catalogue) -> None:
    """Refuse a catalogue whose features the project's models cannot compute.

    Args:
        project: the dbt project the models lie in.

    Raises:
        TransformError: names the source, measure or feature, and what was expected.
    """
    with duckdb.connect() as connection:
        for name, source in catalogue.sources.items():
            measures = _measures(connection, project, name, source)
            if not any(one.source == name for one in catalogue.of_table(source.table)):
                raise TransformError(f"{FILE}, source {name!r}: {source.table} has no feature", "give it one")
            for table in (source.table, *source.tables):
                _check_features(connection, project, source, table, catalogue.of_table(table), measures)


def _measures(connection: duckdb.DuckDBPyConnection, project: Path, name: str, source: Source) -> Types:
    """The types of a source's measures, as features are computed from them."""
    types = _types(project, source.rows, f"{FILE}, source {name!r}: rows")
    for part, column in _columns(source):
        if column not in types:
            raise TransformError(
                f"{FILE}, source {name!r}: {part} names the column {column!r}, which {source.rows} has not",
                f"use one of {', '.join(types)}",
            )
    found = {}
    for measure, described in source.measures.items():
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
    project: Path,
    source: Source,
    table: str,
    features: Sequence[Feature],
    measures: Types,
) -> None:
    own: set[str] = set()
    for model in (table, source.model_of(table)) if features else ():
        described = _described(project, model, f"{FILE}, feature {features[0].name!r}: the table {table}")
        own |= {one["name"] for one in described if "entity" not in one.get("config", {}).get("meta", {})}
    if table in source.tables:
        for feature in features:
            if feature.name in own and feature.name not in source.tables[table].must_have:
                raise TransformError(
                    f"{FILE}, feature {feature.name!r}: {table} has a column of that name already",
                    "rename the feature; where that column is meant to be it, list it in must_have",
                )
    beside = dict(measures) | {one.name: one.data_type for one in features}
    for feature in features:
        if feature.expression is not None:
            cast = f"cast({feature.expression} as {feature.data_type})"
            _yielded(connection, cast, beside, f"{FILE}, feature {feature.name!r}")


def _columns(source: Source) -> list[tuple[str, str]]:
    amount = [("amount", source.amount)] if source.amount is not None else []
    keys = [(f"entity {name!r}", column) for name, entity in source.entities.items() for column in entity.key]
    return [("id", source.id), ("time", source.time), *amount, *keys]


def _types(project: Path, model: str, where: str) -> dict[str, str]:
    """The types of the columns that a model's yml declares."""
    return {one["name"]: one["data_type"] for one in _described(project, model, where) if "data_type" in one}


def _described(project: Path, model: str, where: str) -> list[dict[str, Any]]:
    """The columns that a model's yml declares; in a prepared project those of features have the feature's meta."""
    for path in sorted(project.glob(f"models/*/{model}.yml")):
        for described in yaml.safe_load(path.read_text()).get("models") or []:
            if described["name"] == model:
                return described.get("columns") or []
    raise TransformError(f"{where}: there is no model {model!r}", f"expected models/*/{model}.yml")


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
