"""Features of labels as of their own times: dbt macros give the query, a separate DuckDB connection runs it, read-only.

The macro (dbt_project/macros/features/as_of.sql) decides which rows count; see docs/reference/which-rows-count.md.
Nothing is written to the lake and no connection is shared with a build, so a live cycle is not disturbed.
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

from fraud_lakehouse.errors import LabelsError, LakeError
from fraud_lakehouse.features.catalogue import Catalogue, Feature
from fraud_lakehouse.features.choice import EVENT_TIME, KNOWN_BY, chosen_features, stream_named
from fraud_lakehouse.features.definitions import Definitions
from fraud_lakehouse.features.labels import typed_labels
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.storage import object_store
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import frame_schema
from fraud_lakehouse.transform.definitions import outdated_features
from fraud_lakehouse.transform.engine import PLANNING
from fraud_lakehouse.transform.project import current_catalogue, current_definitions
from fraud_lakehouse.transform.scan import snapshot_sql

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings
    from fraud_lakehouse.transform.runner import Transformer

log = logging.getLogger(__name__)

_ROW = "_lake_place"
_FLAGS = [
    ("is_amount_excluded", "boolean"),
    ("is_time_excluded", "boolean"),
]  # null if silver is older than these columns
_NAMED = re.compile(r'"(bronze|silver|gold)"\."((?:[^"]|"")*)"')


def features_as_of(
    transformer: Transformer,
    settings: Settings,
    labels: pl.DataFrame,
    stream_name: str,
    features: Sequence[str] | None,
    known_by: datetime | None,
    stored: bool | None,
    *,
    corrected: bool,
) -> pl.DataFrame:
    """The labels with their features; see `fraud_lakehouse.detection.as_of`.

    Raises:
        LabelsError, LakeError, TransformError: as there.
    """
    if corrected and known_by is not None:
        raise LabelsError(
            "corrected uses what is known now, known_by what was known then: they exclude each other",
            "leave one of them out",
        )
    transformer.reload()
    catalogue = current_catalogue(settings, transformer.project.folder)
    if catalogue is None:
        raise LabelsError("the dbt project has no streams", "name the models of its streams in dbt_project.yml")
    stream = stream_named(catalogue, stream_name)
    by_id = stream.id in labels.columns if stored is None else stored
    chosen = chosen_features(catalogue, stream, features, labels.columns, stored=by_id)
    lake = Lake.at(settings.lake)
    if by_id and not lake.exists("gold", stream.vectors):
        raise LakeError(
            f"there is no gold/{stream.vectors} in the lake at {lake.root}, whose vectors labels with {stream.id} need",
            "build it (`fraud-lakehouse catch-up`), or compute the features from silver (`--computed`)",
        )
    wanted = [stream.id] if by_id else _columns_needed(catalogue, chosen)
    named = [*wanted, *(name for name in (EVENT_TIME, KNOWN_BY) if name in labels.columns)]
    moment = None if known_by is None else (known_by if known_by.tzinfo else known_by.replace(tzinfo=UTC)).isoformat()
    sql = transformer.rendered(_template(stream.name, chosen, moment, named, stored=by_id, corrected=corrected))
    with _reading(settings, lake, sql) as (connection, types):
        given = typed_labels(labels, {name: types.get(name, pl.String()) for name in named})
        connection.register("labels", given.with_row_index(_ROW).to_arrow())
        reported = pl.DataFrame(connection.sql(sql).to_arrow_table()).sort(_ROW)
        names = [feature.name for feature in chosen]
        empty = reported.filter(pl.all_horizontal(pl.col(names).is_null()))[_ROW]
        if by_id and len(empty):
            newest = _template(stream.name, chosen, None, [stream.id], stored=True, corrected=True)
            known = pl.DataFrame(connection.sql(transformer.rendered(newest)).to_arrow_table())
            later = known.filter(pl.col(_ROW).is_in(empty.implode()), pl.any_horizontal(pl.col(names).is_not_null()))
            _report_missing(stream, later.height, len(empty) - later.height)
        elif not by_id:
            if stream.kind == "changes" and moment is None and not corrected:
                first = "_committed_at" if f'"{stream.ledger}"' in sql else "valid_from"
                _report_unknown_past(connection, sql, given, first)
            _report_timeless(given)
    if by_id:
        _report_outdated(lake, current_definitions(settings, transformer.project.folder), stream.vectors, names)
    return labels.hstack(reported.select(names))


def _columns_needed(catalogue: Catalogue, chosen: Sequence[Feature]) -> list[str]:
    return list(dict.fromkeys(name for feature in chosen for name in catalogue.needed(feature)["needs"]))


def _template(
    stream: str, chosen: Sequence[Feature], moment: str | None, named: list[str], *, stored: bool, corrected: bool
) -> str:
    """The macro's call; Python's repr of strings and lists is valid Jinja."""
    arguments = f"{stream!r}, features={[feature.name for feature in chosen]!r}, known_by={moment!r}"
    arguments += f", columns={[*named, _ROW]!r}, stored={stored!r}, corrected={corrected!r}"
    return f"select * from {{{{ features_as_of('labels', {arguments}) }}}}"


@contextmanager
def _reading(
    settings: Settings, lake: Lake, sql: str
) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, pl.DataType]]]:
    """A connection with a view on the newest version of each table in the query, and the types of their columns."""
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
            object_store.register(connection, lake.root)
            for layer, name in dict.fromkeys(_NAMED.findall(sql)):
                table = lake.open(layer, name.replace('""', '"'))
                connection.execute(f"create schema if not exists {quoted(layer)}")
                connection.execute(f'create view {quoted(layer)}."{name}" as {snapshot_sql(table, _FLAGS)}')
                types = frame_schema(table.schema()) | types
            yield connection, types


def _scratch(settings: Settings) -> Path | None:
    """The folder for spilling: in the work folder if set; never next to the lake, which may be read-only."""
    if settings.work is None:
        return None
    settings.work.mkdir(parents=True, exist_ok=True)
    return settings.work


def _report_unknown_past(connection: duckdb.DuckDBPyConnection, sql: str, given: pl.DataFrame, known_from: str) -> None:
    """Warn how many labels are older than the first known row: nothing counts for them.

    Args:
        known_from: the column with the time from which each row was known.
    """
    (layer, name), *_ = _NAMED.findall(sql)
    row = connection.execute(f'select min({known_from}) from {layer}."{name}"').fetchone()
    first = row[0] if row else None
    moments = given[EVENT_TIME].dt.replace_time_zone("UTC")
    if KNOWN_BY in given.columns:
        moments = given[KNOWN_BY].fill_null(moments)
    before = int((moments < first).sum()) if first is not None else 0
    if first is not None and before:
        log.warning(
            "%s labels were decided before %s, when the first transaction became known: nothing counts for them; set "
            "known_by, or use what is known now (corrected)",
            f"{before:,}",
            first.isoformat(),
        )


def _report_outdated(lake: Lake, definitions: Definitions, table: str, names: list[str]) -> None:
    for found in outdated_features(lake, {table: {name: definitions[table][name] for name in names}}):
        log.warning("%s", found)


def _report_missing(stream: PaymentStream, known_later: int, without: int) -> None:
    """Warn how many labels that name payments have no features, and why."""
    vectors = f"gold/{stream.vectors}"
    if known_later:
        log.warning(
            "%s labels name payments whose vectors in %s became known only later than their decision, or than the "
            "requested time: null. A rebuilt table has no older versions, and a backfill is known from its ingestion "
            "on. Compute these (`--computed`), or use what is known now (`--corrected`)",
            f"{known_later:,}",
            vectors,
        )
    if without:
        log.warning("%s labels name no %s of which %s has features: null", f"{without:,}", stream.id, vectors)


def _report_timeless(given: pl.DataFrame) -> None:
    if timeless := given[EVENT_TIME].null_count():
        log.warning("%s labels have no %s: their features are null", f"{timeless:,}", EVENT_TIME)
