"""The bronze assets: materializing one ingests its source's micro-batches until the source is drained.

There is one step per source, because a source's tables advance together. The tables of a source without its setting are
shown, as far as models read them, but cannot be materialized.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import dagster as dg

from fraud_lakehouse.defs import LAKE_POOL, OWNERS
from fraud_lakehouse.defs.capture_check import CHECK, capture_spec, failing_check
from fraud_lakehouse.defs.metadata import ingested_metadata, table_metadata
from fraud_lakehouse.defs.resources import Lakehouse, stated_failures
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.ingest.evolution import recorded_names
from fraud_lakehouse.sources.configured import DeclaredSource, SourceConfig, declared_sources
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.ingest import Ingested
    from fraud_lakehouse.settings import Settings

SOURCES = "sources"
"""First part of the asset keys of sources without tables that the pipeline names."""
MOST_REFUSALS = 10
TURN_SECONDS = 0.1  # a process that waits for the writer lock polls every 0.05 s
Writing = Callable[[], AbstractContextManager[None]]


class DrainConfig(dg.Config):
    """Maximum of one materialization, in micro-batches."""

    max_batches: int = 1_000


def bronze_tables(settings: "Settings") -> dict[DeclaredSource, list[str]]:
    """Bronze tables by source: those that the pipeline names, and those that already exist in the lake.

    A table in the lake belongs to the source that created it, whatever the pipeline declares.
    """
    return _tables(settings, declared_sources(settings))


def _tables(
    settings: "Settings", sources: Sequence[DeclaredSource], among: Collection[str] | None = None
) -> dict[DeclaredSource, list[str]]:
    """Bronze tables by source; with `among`, tables of the lake count only if they are in it."""
    owned = _owned(Lake.at(settings.lake), sources, among)
    others = {name: set().union(*(owned[one] for one in owned if one != name)) for name in owned}
    found: dict[DeclaredSource, list[str]] = {}
    for source in sources:
        named = [table for table in source.tables if table not in others[source.name]]
        found[source] = [*named, *sorted(owned[source.name] - set(named))]
    return found


def _owned(lake: Lake, sources: Sequence[DeclaredSource], among: Collection[str] | None) -> dict[str, set[str]]:
    """The tables of the lake that each source created."""
    topics = {table for source in sources if source.kind == "kafka" for table in source.tables}
    databases = [source for source in sources if source.kind == "postgres"]
    owned: dict[str, set[str]] = {source.name: set() for source in sources}
    for source in databases:
        if len(databases) == 1:  # names are enough: a lake may have a thousand tables
            owned[source.name] = set(lake.tables("bronze")) - topics
        elif isinstance(source.config, PostgresConfig):
            owned[source.name] = set(recorded_names(lake, source.config, among).values()) - topics
    return owned


def bronze_key(table: str) -> dg.AssetKey:
    """The asset key of a bronze table."""
    return table_key("bronze", table)


def drain(
    step: Callable[[int], Sequence["Ingested"]], max_rows: int, max_batches: int, writing: Writing = nullcontext
) -> tuple[list["Ingested"], bool]:
    """Ingest micro-batches until the source has no more or `max_batches` are in, under the writer lock for each.

    A batch that is not full, after the first (which may be a snapshot), has caught up with the source. So a source that
    is never idle does not keep a run going for ever.

    A commit conflict means that another writer (the live run) ingested those rows first: nothing is lost, and the next
    step continues from its position.

    Returns:
        the ingested batches, and whether they caught up.

    Raises:
        ConcurrentWriterError: repeated commit conflicts: two writers work against each other.
    """
    ingested: list[Ingested] = []
    conflicts = 0
    for _ in range(max_batches):
        try:
            with writing():
                batch = step(max_rows)
        except ConcurrentWriterError:
            conflicts += 1
            if conflicts >= MOST_REFUSALS:
                raise
            continue
        conflicts = 0
        was_full = sum(one.rows for one in batch) >= max_rows
        if not batch or (ingested and not was_full):
            return [*ingested, *batch], True
        ingested.extend(batch)
        time.sleep(TURN_SECONDS)
    return ingested, False


def source_key(source: DeclaredSource, tables: Sequence[str]) -> dg.AssetKey:
    """The asset of a source's own checks: the first of its tables that the pipeline names, else the source itself."""
    named = [table for table in source.tables if table in tables]
    return bronze_key(named[0]) if named else table_key(SOURCES, source.name)


def checked_sources(settings: "Settings") -> list[tuple[SourceConfig, dg.AssetKey]]:
    """The configured sources, each with the asset of its own checks."""
    sources = declared_sources(settings)
    tables = _tables(settings, sources, {table for source in sources for table in source.tables})
    return [(source.config, source_key(source, names)) for source, names in tables.items() if source.config is not None]


def checked_databases(settings: "Settings") -> list[tuple[PostgresConfig, dg.AssetKey]]:
    """The configured PostgreSQL sources, each with the asset of its own checks."""
    return [(config, key) for config, key in checked_sources(settings) if isinstance(config, PostgresConfig)]


def bronze_assets(settings: "Settings") -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The bronze layer: one step per configured source, bare specs for the tables of the others."""
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = []
    for source, tables in bronze_tables(settings).items():
        specs = [_spec(source, table) for table in tables]
        key = source_key(source, tables)
        if key.path[0] == SOURCES:
            specs.append(_described(source, key, f"The source {source.name}; the pipeline names none of its tables."))
        assets.extend([_source_step(source, key, tables, specs)] if source.config is not None else specs)
    return assets


def _spec(source: DeclaredSource, table: str) -> dg.AssetSpec:
    what = (
        "Kafka records as they came, one row per record; unreadable ones with their bytes and the reason."
        if source.kind == "kafka"
        else f"Change events of the PostgreSQL table {table.replace('__', '.')}, one row per event."
    )
    return _described(source, bronze_key(table), what)


def _described(source: DeclaredSource, key: dg.AssetKey, what: str) -> dg.AssetSpec:
    absent = "" if source.config is not None else f"\n\nNot configured: set {source.variable} to capture it."
    return dg.AssetSpec(
        key=key,
        description=what + absent,
        group_name="bronze",
        owners=OWNERS,
        kinds={source.kind, "deltalake"},
        tags={"source": source.name},
    )


def _source_step(
    source: DeclaredSource, asset: dg.AssetKey, declared: list[str], specs: list[dg.AssetSpec]
) -> dg.AssetsDefinition:
    name = source.name

    @dg.multi_asset(
        name=f"capture_{name.replace('.', '__')}",
        specs=specs,
        check_specs=[capture_spec(name, asset)],
        can_subset=False,
        pool=LAKE_POOL,
    )
    def capture(
        context: dg.AssetExecutionContext, config: DrainConfig, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with stated_failures(), failing_check(asset, context.log_event):
            step, rows = lakehouse.ingest(name).step, lakehouse.settings.batch_rows
            ingested, drained = drain(step, rows, config.max_batches, lambda: lakehouse.writing(name))
        by_table: dict[str, list[Ingested]] = defaultdict(list)
        for batch in ingested:
            by_table[batch.table].append(batch)
        for table in sorted({*declared, *by_table}):
            metadata = {
                **table_metadata(lakehouse.lake, "bronze", table),
                **ingested_metadata(by_table[table]),
                "caught up": drained,
            }
            if table in declared:
                yield dg.MaterializeResult(asset_key=bronze_key(table), metadata=metadata)
            else:
                context.log_event(dg.AssetMaterialization(asset_key=bronze_key(table), metadata=metadata))
        if asset.path[0] == SOURCES:
            yield dg.MaterializeResult(asset_key=asset, metadata={"tables": len(by_table)})
        yield dg.AssetCheckResult(asset_key=asset, check_name=CHECK, passed=True)
        context.log.info("%s: %d rows ingested, caught up: %s", name, sum(batch.rows for batch in ingested), drained)

    return capture
