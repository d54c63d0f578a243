"""Daily maintenance of the lake's tables; the result for each is an observation of that table's asset.

`storage/maintenance.py` does the work: merge, checkpoint, clean the log, vacuum.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.defs import LAKE_POOL
from fraud_lakehouse.defs.resources import Lakehouse, stated_failures
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.storage.lake import LAYERS
from fraud_lakehouse.storage.writer_lock import BESIDE

if TYPE_CHECKING:
    from fraud_lakehouse.storage.maintenance import Upkeep

CRON = "30 3 * * *"
SHOWN = ("bronze", "silver", "gold")


def upkeep_schedule() -> dg.ScheduleDefinition:
    """The job `upkeep`, at 03:30 UTC."""

    @dg.op(
        pool=LAKE_POOL, description="Merges files, checkpoints, cleans the log and vacuums, one table after the other."
    )
    def maintain_tables(context: dg.OpExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]) -> None:
        from fraud_lakehouse.storage.maintenance import maintain_table

        lake = lakehouse.lake
        for layer in LAYERS:
            for table in lake.tables(layer):
                with (
                    stated_failures(),
                    lakehouse.writing(BESIDE),
                ):  # the fence rejects the maintenance of a table that is written meanwhile
                    done = maintain_table(lake, layer, table)
                if layer in SHOWN:
                    context.log_event(dg.AssetObservation(table_key(layer, table), metadata=upkeep_metadata(done)))
                context.log.info("%s/%s: %d -> %d files", layer, table, done.files_before, done.files_after)

    @dg.job(
        name="upkeep",
        executor_def=dg.in_process_executor,
        description="Keeps the Delta tables small and fast; readers see no change.",
    )
    def upkeep() -> None:
        maintain_tables()

    return dg.ScheduleDefinition(
        name="upkeep_at_0330",
        job=upkeep,
        cron_schedule=CRON,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Maintenance at a quiet time of day (UTC).",
    )


def upkeep_metadata(done: "Upkeep") -> dict[str, Any]:
    """The table before and after."""
    return {
        "files before": done.files_before,
        "files after": done.files_after,
        "bytes before": done.bytes_before,
        "bytes after": done.bytes_after,
        "log entries before": done.entries_before,
        "log entries after": done.entries_after,
        "files vacuumed": done.files_vacuumed,
        "bytes vacuumed": done.bytes_vacuumed,
        "version": done.version,
    }
