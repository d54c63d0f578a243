"""The validator's judgements of transfers as an asset, and the sensor that requests it in batch mode.

There is none unless FRAUD_VALIDATOR_URL is set. During a live run, the background worker judges.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.defs import LAKE_POOL, OWNERS
from fraud_lakehouse.defs.resources import Lakehouse, stated_failures
from fraud_lakehouse.defs.sensors import UNFINISHED, Tick
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.detection.validator import TABLE, judge_pending, transfers_status
from fraud_lakehouse.sources.configured import configured_sources, is_live
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings

JOB = "judge_transfers"
KEY = table_key(*TABLE)


def judgement_assets(settings: "Settings") -> list[dg.AssetsDefinition]:
    """The asset silver/transfer_judgements; materializing it sends every transfer that waits."""
    if settings.validator_url is None:
        return []

    @dg.asset(
        key=KEY,
        description="What the validator says of unidentified transfers. One row per judged transfer.",
        group_name="silver",
        owners=OWNERS,
        kinds={"deltalake"},
        pool=LAKE_POOL,
    )
    def transfer_judgements(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.MaterializeResult[None]:
        with stated_failures():
            judged = judge_pending(lakehouse.settings, lakehouse.lake)
        metadata: dict[str, Any] = {
            "recorded": judged.recorded,
            "waiting": judged.waiting,
            "problem": judged.problem or "none",
        }
        return dg.MaterializeResult(metadata=metadata)

    return [transfer_judgements]


def judgement_jobs(settings: "Settings") -> list[Any]:
    """The job that judges transfers and builds what depends on it."""
    if settings.validator_url is None:
        return []
    selection = dg.AssetSelection.assets(KEY).downstream()
    description = "Sends transfers that wait to the validator, and builds what depends on its judgements."
    return [dg.define_asset_job(JOB, selection=selection, description=description)]


def judgement_sensors(settings: "Settings") -> list[dg.SensorDefinition]:
    """The sensor that requests the job while transfers wait, unless a live run judges them."""
    if settings.validator_url is None:
        return []

    @dg.sensor(
        name="pending_transfers",
        job_name=JOB,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests a run while transfers wait for the validator.",
    )
    def pending_transfers(context: dg.SensorEvaluationContext) -> Tick:
        if is_live(configured_sources(settings).values()):
            return dg.SkipReason("A source has no update delay: the live run judges transfers.")
        if context.instance.get_runs(dg.RunsFilter(job_name=JOB, statuses=UNFINISHED), limit=1):
            return dg.SkipReason("A run is judging transfers.")
        found = transfers_status(settings, Lake.at(settings.lake))
        if not found or not found["pending"]:
            return dg.SkipReason("No transfer waits for the validator.")
        return dg.RunRequest()

    return [pending_transfers]
