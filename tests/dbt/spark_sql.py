"""What dbt makes of the project for Spark: templates and models, rendered by the macros that Spark dispatches to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from fraud_lakehouse.transform.rendering import invoke, scratch
from fraud_lakehouse.transform.runner import Transformer


@contextmanager
def dispatching_to_spark() -> Iterator[None]:
    """Macros are those of Spark; where it has none of its own, DuckDB's adapter still answers dbt."""
    with mock.patch("dbt.context.providers.get_adapter_type_names", return_value=["spark", "duckdb"]):
        yield


def rendered(transformer: Transformer, text: str) -> str:
    """A template for Spark."""
    with dispatching_to_spark():
        return transformer.rendered(text)


def models(transformer: Transformer, names: list[str]) -> dict[str, str]:
    """SQL of these models for Spark, built from nothing; layer.table is read from the view layer_table."""
    chosen = ["--select", *names, "--exclude", "resource_type:test", "resource_type:unit_test"]
    with dispatching_to_spark(), scratch(transformer.settings) as own:
        result = invoke(transformer.project, own, ["compile", "--full-refresh", *chosen])
    assert result.success, result.exception
    return {found.node.name: _with_views(found.node.compiled_code) for found in result.result.results}


def _with_views(sql: str) -> str:
    new_rows = re.sub(r'new_rows\."[^"]* <- (\w+)\.(\w+)"', r"\1_\2", sql)
    return re.sub(r'"memory"\."(\w+)"\."(\w+)"', r"\1_\2", new_rows)
