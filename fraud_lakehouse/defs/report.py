"""The daily report: the model gold/daily_report, built once a day by a schedule.

The dbt model defines its content. Builds of the deferred models refresh it too.
"""

from __future__ import annotations

import dagster as dg

from fraud_lakehouse.defs.transform import REPORT_KEY

CRON = "15 0 * * *"


def report_schedule() -> dg.ScheduleDefinition:
    """Builds the report at 00:15 UTC, for the day that has just ended."""
    job = dg.define_asset_job(
        "daily_report",
        selection=dg.AssetSelection.assets(REPORT_KEY),
        description="Builds gold/daily_report from the current tables.",
        executor_def=dg.in_process_executor,
    )
    return dg.ScheduleDefinition(
        name="daily_report_at_0015",
        job=job,
        cron_schedule=CRON,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="The report on the day that has just ended (UTC).",
    )
