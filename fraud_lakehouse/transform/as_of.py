"""Features of labels as of their own times: the query comes from the dbt macros, DuckDB of its own runs it, read only.

What counts is the macro's matter (dbt_project/macros/features/as_of.sql) and written down in docs/point-in-time.md.
Nothing is written into the lake and no connection is shared with a build, so a live cycle goes on undisturbed.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.features.catalogue import FILE, Catalogue, Feature, Source, load_catalogue
from fraud_lakehouse.features.choice import EVENT_TIME, KNOWN_BY, chosen_features, source_named
from fraud_lakehouse.features.labels import typed_labels
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.schemas import frame_schema
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.engine import PLANNING
from fraud_lakehouse.transform.scan import snapshot_sql

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings
    from fraud_lakehouse.transform.runner import Transformer

log = logging.getLogger(__name__)

_ROW = "_lake_place"
_NAMED = re.compile(r'"(bronze|silver|gold)"\."((?:[^"]|"")*)"')


def features_as_of(
    transformer: Transformer,
    settings: Settings,
    labels: pl.DataFrame,
    source_name: str,
    features: Sequence[str] | None,
    known_by: datetime | None,
    stored: bool | None,
) -> pl.DataFrame:
    """The labels with their features; see `fraud_lakehouse.features.as_of`.

    Raises:
        LabelsError, LakeError, TransformError: as there.
    """
    transformer.reload()
    catalogue = load_catalogue(transformer.project.folder / FILE)
    source = source_named(catalogue, source_name)
    by_id = source.id in labels.columns if stored is None else stored
    chosen = chosen_features(catalogue, source, features, labels.columns, stored=by_id)
    lake = Lake.at(settings.lake)
    if by_id and not lake.exists("gold", source.table):
        raise LakeError(
            f"there is no gold/{source.table} in the lake at {lake.root}, whose vectors labels with {source.id} want",
            "build it (`fraud-lakehouse catch-up`), or compute the features from silver (`--computed`)",
        )
    wanted = [source.id] if by_id else _columns_needed(catalogue, chosen)
    named = [*wanted, *([] if by_id else [EVENT_TIME]), *([KNOWN_BY] if KNOWN_BY in labels.columns else [])]
    moment = None if known_by is None else (known_by if known_by.tzinfo else known_by.replace(tzinfo=UTC)).isoformat()
    sql = transformer.rendered(_template(source_name, chosen, moment, named, stored=by_id))
    with _reading(settings, lake, sql) as (connection, types):
        given = typed_labels(labels, {name: types.get(name, pl.String()) for name in named})
        connection.register("labels", given.with_row_index(_ROW).to_arrow())
        told = pl.DataFrame(connection.sql(sql).to_arrow_table()).sort(_ROW)
        if source_name == "bank" and not by_id and moment is None:
            _tell_of_unknown_past(connection, sql, given)
    names = [feature.name for feature in chosen]
    _tell_of_empty(told, names, given, source, by_id=by_id)
    return labels.hstack(told.select(names))


def _columns_needed(catalogue: Catalogue, chosen: Sequence[Feature]) -> list[str]:
    return list(dict.fromkeys(name for feature in chosen for name in catalogue.needed(feature)["needs"]))


def _template(source: str, chosen: Sequence[Feature], moment: str | None, named: list[str], *, stored: bool) -> str:
    """The macro's call; Python spells texts and lists as Jinja does."""
    arguments = f"{source!r}, features={[feature.name for feature in chosen]!r}, known_by={moment!r}"
    columns = [*named, _ROW]
    return f"select * from {{{{ features_as_of('labels', {arguments}, columns={columns!r}, stored={stored!r}) }}}}"


@contextmanager
def _reading(
    settings: Settings, lake: Lake, sql: str
) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, pl.DataType]]]:
    """A connection with a view on the newest version of each table the query names, and the types of their columns."""
    types: dict[str, pl.DataType] = {}
    with tempfile.TemporaryDirectory(prefix="fraud-lakehouse-as-of-", dir=_scratch(settings)) as spill:
        options: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": settings.duckdb_memory,
            "temp_directory": spill,
            "preserve_insertion_order": False,
            **PLANNING,
        }
        with duckdb.connect(config=options) as connection:
            connection.execute("set TimeZone = 'UTC'")
            for layer, name in dict.fromkeys(_NAMED.findall(sql)):
                table = lake.open(layer, name.replace('""', '"'))
                connection.execute(f"create schema if not exists {quoted(layer)}")
                connection.execute(f'create view {quoted(layer)}."{name}" as {snapshot_sql(table)}')
                types = frame_schema(table.schema()) | types
            yield connection, types


def _scratch(settings: Settings) -> Path | None:
    """Where to spill: the work folder if one is set; else not beside the lake, which may be read-only."""
    if settings.work is None:
        return None
    settings.work.mkdir(parents=True, exist_ok=True)
    return settings.work


def _tell_of_unknown_past(connection: duckdb.DuckDBPyConnection, sql: str, given: pl.DataFrame) -> None:
    """Say how many labels lie before anything was known: their features are empty, and that may surprise."""
    (layer, name), *_ = _NAMED.findall(sql)
    row = connection.execute(f'select min(valid_from) from {layer}."{name}"').fetchone()
    first = row[0] if row else None
    moments = given[EVENT_TIME].dt.replace_time_zone("UTC")
    if KNOWN_BY in given.columns:
        moments = given[KNOWN_BY].fill_null(moments)
    before = int((moments < first).sum()) if first is not None else 0
    if first is not None and before:
        log.warning(
            "%s labels are decided before %s, when the first transaction became known: nothing counts for them; say by "
            "when rows must have been known (known_by) to use what the first snapshot brought",
            f"{before:,}",
            first.isoformat(),
        )


def _tell_of_empty(told: pl.DataFrame, names: list[str], given: pl.DataFrame, source: Source, *, by_id: bool) -> None:
    if by_id:
        empty = told.select(pl.all_horizontal(pl.col(names).is_null()).sum()).item()
        if empty:
            log.warning(
                "%s labels name no %s in %s known by then: null", f"{empty:,}", source.id, f"gold/{source.table}"
            )
    elif timeless := given[EVENT_TIME].null_count():
        log.warning("%s labels have no %s: their features are null", f"{timeless:,}", EVENT_TIME)
