"""The whole Dagster wiring on one screen. Dagster loads `defs`; tests share `build_definitions` with it.

Loading opens no connection: it reads the settings, lists the tables of a local lake and parses the dbt project if it
changed.
"""

from __future__ import annotations

import dagster as dg

from fraud_lakehouse.checks.excluded_values import checked_table
from fraud_lakehouse.defs import UPDATE_JOB
from fraud_lakehouse.defs.alerts import alert_sensor, failure_sensor
from fraud_lakehouse.defs.bronze import bronze_assets, bronze_key, bronze_tables, source_key
from fraud_lakehouse.defs.checks import alert_checks
from fraud_lakehouse.defs.contract_checks import contract_checks, contracted_tables
from fraud_lakehouse.defs.excluded_values import excluded_checks
from fraud_lakehouse.defs.ineligible_tables import tables_check, tables_sensor
from fraud_lakehouse.defs.judgements import judgement_assets, judgement_jobs, judgement_sensors
from fraud_lakehouse.defs.late_rows import late_checks
from fraud_lakehouse.defs.live_run import live_job
from fraud_lakehouse.defs.open_transactions import transactions_check
from fraud_lakehouse.defs.published import published_assets
from fraud_lakehouse.defs.report import report_schedule
from fraud_lakehouse.defs.resources import Parts, lakehouse_resource
from fraud_lakehouse.defs.sensors import janitor_sensor, live_sensor, source_sensor
from fraud_lakehouse.defs.slot_health import slot_check, slot_sensor
from fraud_lakehouse.defs.source_watch import watch_sensor
from fraud_lakehouse.defs.transform import Manifest, load_manifest, models, transform_assets
from fraud_lakehouse.defs.upkeep import upkeep_schedule
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import configured_sources, declared_topics, is_live


def build_definitions(
    settings: Settings | None = None, *, parts: Parts | None = None, manifest: Manifest | None = None
) -> dg.Definitions:
    """Everything Dagster shows and runs.

    Args:
        settings: default: from the environment.
        parts: factories of the resource's components; default: the product's.
        manifest: the dbt manifest; default: of the project prepared for the settings' lake.

    Raises:
        SettingsError: a setting has a wrong value.
        TransformError: dbt cannot parse the project.
    """
    settings, parts = settings or load_settings(), parts or Parts()
    from fraud_lakehouse.transform.project import (
        current_rules,
        current_streams,
        prepare_project,
        tables_of_own_streams,
    )

    if manifest is None:
        manifest = load_manifest(prepare_project(settings).manifest_path)
    keys = models(manifest)
    sources = bronze_tables(settings)
    bronze = [table for tables in sources.values() for table in tables]
    topics = {topic.table: topic for topic in declared_topics(settings)}
    built = {tuple(key.path) for key in keys.values()}
    streams = [one for one in current_streams(settings).values() if ("silver", checked_table(one)) in built]
    silver = [key.path[-1] for key in keys.values() if key.path[0] == "silver"]
    contracted = contracted_tables(bronze, silver, topics, tables_of_own_streams(settings))
    rules = {name: rule for name, rule in current_rules(settings).rules.items() if rule.state == "live"}
    return dg.Definitions(
        assets=[
            *bronze_assets(settings),
            transform_assets(manifest, is_live=is_live(configured_sources(settings).values())),
            *published_assets(settings),
            *judgement_assets(settings),
        ],
        asset_checks=[
            alert_checks({name: rule.description for name, rule in rules.items()}),
            *contract_checks(contracted),
            *late_checks(streams),
            *excluded_checks(streams),
            *slot_check(settings),
            *tables_check(settings),
            *transactions_check(settings),
        ],
        jobs=[
            dg.define_asset_job(UPDATE_JOB, description="Every layer, from the sources."),
            live_job(keys, list(rules), contracted),
            *judgement_jobs(settings),
        ],
        schedules=[report_schedule(), upkeep_schedule()],
        sensors=[
            *(
                source_sensor(
                    source,
                    settings,
                    parts.poll,
                    source_key(source, tables),
                    [*dict.fromkeys([source_key(source, tables), *map(bronze_key, tables)]), *keys.values()],
                )
                for source, tables in sources.items()
            ),
            live_sensor(settings),
            janitor_sensor(settings),
            alert_sensor(settings),
            failure_sensor(settings),
            slot_sensor(settings, parts.slot),
            tables_sensor(settings, parts.tables),
            watch_sensor(settings),
            *judgement_sensors(settings),
        ],
        resources={"lakehouse": lakehouse_resource(settings, parts)},
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads; evaluated by it, not at import."""
    return build_definitions()
