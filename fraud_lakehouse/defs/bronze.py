"""The bronze assets: materializing one pulls its source's micro-batches into the lake until it is drained.

One step per source, because a source's tables advance together. A source whose setting is absent is not there:
its tables are shown, as far as the models read them, but cannot be materialized.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import dagster as dg

from fraud_lakehouse.defs import LAKE_POOL, OWNERS
from fraud_lakehouse.defs.capture_check import ASSETS, CHECK, capture_spec, failing_check
from fraud_lakehouse.defs.metadata import landed_metadata, table_metadata
from fraud_lakehouse.defs.resources import Lakehouse, stated_failures
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.sources.postgres.names import bronze_name
from fraud_lakehouse.sql_text import qualified
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.ingest import Landed
    from fraud_lakehouse.settings import Settings

CARD_TABLE = "card_transactions"
MODELLED_TABLES = frozenset({"users", "transactions"})
SETTING = {"postgres": "FRAUD_POSTGRES_DSN", "kafka": "FRAUD_KAFKA_BOOTSTRAP_SERVERS"}
MOST_REFUSALS = 10
TURN_SECONDS = 0.1  # who waits for the writer's lock looks every 0.05 s
Writing = Callable[[], AbstractContextManager[None]]
KINDS = {"postgres": {"postgres", "deltalake"}, "kafka": {"kafka", "deltalake"}}


class DrainConfig(dg.Config):
    """How much one materialization may pull, in micro-batches."""

    max_batches: int = 1_000


def configured(settings: "Settings", source: str) -> bool:
    """Whether the setting that makes a source exist is present."""
    return bool(settings.postgres_dsn if source == "postgres" else settings.kafka_bootstrap_servers)


def bronze_tables(settings: "Settings") -> dict[str, list[str]]:
    """Bronze tables by source: those the models read, those named in the settings, those already in the lake."""
    named = {bronze_name(*qualified(table)) for table in settings.postgres_tables}
    landed = set(Lake.at(settings.lake).tables("bronze"))
    return {"postgres": sorted((MODELLED_TABLES | named | landed) - {CARD_TABLE}), "kafka": [CARD_TABLE]}


def bronze_key(table: str) -> dg.AssetKey:
    """The asset key of a bronze table."""
    return table_key("bronze", table)


def drain(
    step: Callable[[int], Sequence["Landed"]], max_rows: int, max_batches: int, writing: Writing = nullcontext
) -> tuple[list["Landed"], bool]:
    """Land micro-batches until the source has no more or `max_batches` are in, taking the writer's lock for each.

    A batch that is not full, after the first (which may be a snapshot), has caught up with the source: a source that
    never rests does not hold a run for ever.

    A commit refused by the fence means that another writer (the live run) landed those rows first: nothing is
    lost, and the next step continues from its position.

    Returns:
        What landed, and whether it caught up.

    Raises:
        ConcurrentWriterError: refused again and again: two writers are left running against each other.
    """
    landed: list[Landed] = []
    refused = 0
    for _ in range(max_batches):
        try:
            with writing():
                batch = step(max_rows)
        except ConcurrentWriterError:
            refused += 1
            if refused >= MOST_REFUSALS:
                raise
            continue
        refused = 0
        was_full = sum(one.rows for one in batch) >= max_rows
        if not batch or (landed and not was_full):
            return [*landed, *batch], True
        landed.extend(batch)
        time.sleep(TURN_SECONDS)
    return landed, False


def bronze_assets(settings: "Settings") -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The bronze layer: a step for each configured source, bare specs for the tables of the others."""
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = []
    for source, tables in bronze_tables(settings).items():
        specs = [_spec(source, table, configured(settings, source)) for table in tables]
        assets.extend([_source_step(source, tables, specs)] if configured(settings, source) else specs)
    return assets


def _spec(source: str, table: str, is_configured: bool) -> dg.AssetSpec:
    what = (
        "Kafka records as they arrived, one row per record; unreadable ones with their bytes and the reason."
        if source == "kafka"
        else f"Change events of the PostgreSQL table {table.replace('__', '.')}, one row per event."
    )
    absent = "" if is_configured else f"\n\nNot configured: set {SETTING[source]} to capture it."
    return dg.AssetSpec(
        key=bronze_key(table),
        description=what + absent,
        group_name="bronze",
        owners=OWNERS,
        kinds=KINDS[source],
        tags={"source": source},
    )


def _source_step(source: str, declared: list[str], specs: list[dg.AssetSpec]) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=f"capture_{source}",
        specs=specs,
        check_specs=[capture_spec(source)],
        can_subset=False,
        pool=LAKE_POOL,
    )
    def capture(
        context: dg.AssetExecutionContext, config: DrainConfig, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with stated_failures(), failing_check(source, context.log_event):
            step, rows = lakehouse.ingest(source).step, lakehouse.settings.batch_rows
            landed, drained = drain(step, rows, config.max_batches, lambda: lakehouse.writing(source))
        by_table: dict[str, list[Landed]] = defaultdict(list)
        for batch in landed:
            by_table[batch.table].append(batch)
        for table in sorted({*declared, *by_table}):
            metadata = {
                **table_metadata(lakehouse.lake, "bronze", table),
                **landed_metadata(by_table[table]),
                "caught up": drained,
            }
            if table in declared:
                yield dg.MaterializeResult(asset_key=bronze_key(table), metadata=metadata)
            else:
                context.log_event(dg.AssetMaterialization(asset_key=bronze_key(table), metadata=metadata))
        yield dg.AssetCheckResult(asset_key=ASSETS[source], check_name=CHECK, passed=True)
        context.log.info("%s: %d rows landed, caught up: %s", source, sum(batch.rows for batch in landed), drained)

    return capture
