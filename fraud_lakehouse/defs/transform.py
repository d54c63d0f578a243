"""The dbt models as assets, their tests as asset checks. A run builds them with the executor, in its own process.

Specs come from the manifest through dagster-dbt. Its command line is not used: a dbt subprocess takes seconds longer
than the build itself.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.defs import LAKE_POOL, OWNERS
from fraud_lakehouse.defs.metadata import table_metadata
from fraud_lakehouse.defs.resources import Lakehouse, stated_failures
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.storage.writer_lock import BESIDE, HOT

if TYPE_CHECKING:
    from dagster_dbt import DagsterDbtTranslator

    from fraud_lakehouse.storage.lake import Lake
    from fraud_lakehouse.transform.build_result import BuildResult, NodeResult

Manifest = Mapping[str, Any]
STORED = "delta"  # the materialization that stores a table; others are views within a build
REPORT_KEY = dg.AssetKey(["gold", "daily_report"])
ALERTS_KEY = dg.AssetKey(["gold", "alerts"])
# The live run reports gold/alerts every minute, even without new rows; other tables only with new rows.
LIVE_FRESHNESS = dg.FreshnessPolicy.time_window(timedelta(minutes=5), warn_window=timedelta(minutes=2))
REPORT_FRESHNESS = dg.FreshnessPolicy.cron("0 1 * * *", lower_bound_delta=timedelta(hours=1), timezone="UTC")


def load_manifest(path: Path) -> Manifest:
    """Read a dbt manifest from its file."""
    manifest: Manifest = json.loads(path.read_text())
    return manifest


def model_key(node: Mapping[str, Any]) -> dg.AssetKey:
    """The asset key of a dbt node: layer and table."""
    return table_key(*_table(node))


def models(manifest: Manifest) -> dict[str, dg.AssetKey]:
    """Asset key of each model by its dbt unique id."""
    return {uid: model_key(node) for uid, node in manifest["nodes"].items() if node["resource_type"] == "model"}


def transform_assets(manifest: Manifest, *, is_live: bool) -> dg.AssetsDefinition:
    """One step that builds any selection of the models.

    Args:
        is_live: whether a live run should report gold/alerts continuously, so that it is stale otherwise.
    """
    from dagster_dbt import dbt_assets

    nodes = manifest["nodes"]
    keys = models(manifest)

    @dbt_assets(
        manifest=manifest,
        dagster_dbt_translator=_translator(is_live=is_live),
        name="dbt_build",
        pool=LAKE_POOL,
    )
    def dbt_build(
        context: dg.AssetExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        wanted = [nodes[uid] for uid, key in keys.items() if key in context.selected_asset_keys]
        with stated_failures():
            built = build_one_by_one(lakehouse, wanted, everything=len(wanted) == len(keys))
        checks = {
            str(spec.metadata["dagster_dbt/unique_id"]): spec.key
            for spec in context.assets_def.check_specs
            if spec.key in context.selected_asset_check_keys
        }
        for node in built.nodes:
            if node.unique_id in checks:
                yield check_result(node, checks[node.unique_id])
            elif node.unique_id in keys and node.ok:
                props = nodes[node.unique_id]
                yield dg.MaterializeResult(
                    asset_key=model_key(props), metadata=model_metadata(lakehouse.lake, props, node)
                )
        if unseen := [
            node.name for node in built.nodes if node.resource_type == "model" and node.unique_id not in keys
        ]:
            context.log.info("Reload the code location to see the newly captured: %s", ", ".join(unseen))
        context.log.info("%d dbt nodes in %.2f s, %d failed", len(built.nodes), built.seconds, len(built.failed))
        if built.failed:
            raise dg.Failure(
                "; ".join(f"{node.name}: {node.reason}" for node in built.failed[:5]),
                metadata={node.name: node.reason for node in built.failed},
                allow_retries=False,
            )

    return dbt_build


def build_one_by_one(lakehouse: Lakehouse, wanted: Sequence[Mapping[str, Any]], *, everything: bool) -> "BuildResult":
    """Build models under the lock of their tier, the fast path first: a long build of the others delays no alert.

    Tests of fast-path models run after their lock is released, because they may read the whole history; the live cycle
    builds without tests.

    Args:
        wanted: manifest nodes of the models.
        everything: whether all models are selected; models of newly captured tables are then built too.
    """
    from fraud_lakehouse.detection.labels import LabelWriter
    from fraud_lakehouse.transform.build_result import BuildResult

    builder = lakehouse.builder()
    tiers: dict[str, list[str]] = {HOT: [], BESIDE: []}
    for node in wanted:
        tiers[HOT if "hot" in node["config"]["tags"] else BESIDE].append(node["name"])
    if everything:
        tiers = {HOT: builder.names("hot"), BESIDE: builder.names("rest")}
    if tiers[HOT]:
        builder.warm_up(tiers[HOT])  # compile and load state before acquiring the lock that alerts wait for
    built = []
    for tier, names in tiers.items():
        if not names:
            continue
        with lakehouse.writing(tier):
            if tier == HOT:
                LabelWriter(lakehouse.settings, lakehouse.lake).write()
            built.append(builder.build(names, tests=tier != HOT))
        if tier == HOT:
            built.append(builder.test(names))  # reads only: needs no lock
    # A test on models of both tiers runs with each; the second result counts.
    nodes = {node.unique_id: node for one in built for node in one.nodes}
    return BuildResult(list(nodes.values()), sum(one.seconds for one in built))


def model_metadata(lake: "Lake", props: Mapping[str, Any], node: "NodeResult") -> dict[str, Any]:
    """Result of a model's build (rows, version, seconds) and, if it is stored, the table as it is now."""
    layer, table = _table(props)
    stored = props["config"]["materialized"] == STORED
    return {
        **(table_metadata(lake, layer, table) if stored else {}),
        "rows": node.rows or 0,
        "seconds": round(node.seconds, 3),
        **({"version": node.version} if node.version is not None else {}),
    }


def check_result(node: "NodeResult", key: dg.AssetCheckKey) -> dg.AssetCheckResult:
    """A dbt test's result with its evidence; a test that could not run has not passed."""
    warns = node.status == "warn"
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=node.status == "pass",
        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
        metadata={
            "failing rows": node.failures if node.failures is not None else "unknown",
            "status": node.status,
            "seconds": round(node.seconds, 3),
            **({"message": node.message} if node.message else {}),
        },
    )


def _table(node: Mapping[str, Any]) -> tuple[str, str]:
    if node["resource_type"] == "source":
        return str(node["schema"]), str(node["identifier"])
    return str(node["fqn"][1]), str(node["alias"])


def _translator(*, is_live: bool) -> "DagsterDbtTranslator":
    from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings

    freshness = {REPORT_KEY: REPORT_FRESHNESS, **({ALERTS_KEY: LIVE_FRESHNESS} if is_live else {})}

    class Translator(DagsterDbtTranslator):
        """Layer = folder = asset group = first part of the key."""

        def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
            return model_key(dbt_resource_props)

        def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
            return model_key(dbt_resource_props).path[0]

        def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
            return OWNERS

        def get_asset_spec(self, manifest: Manifest, unique_id: str, project: Any) -> dg.AssetSpec:
            spec = super().get_asset_spec(manifest, unique_id, project)
            stored = self.get_resource_props(manifest, unique_id)["config"].get("materialized") == STORED
            kinds = {"dbt", "deltalake" if stored else "view"}
            deps = [dep for dep in spec.deps if dep.asset_key.path[0] != "control"]  # control tables are not assets
            if policy := freshness.get(spec.key):
                return spec.replace_attributes(kinds=kinds, deps=deps, freshness_policy=policy)
            return spec.replace_attributes(kinds=kinds, deps=deps)

    return Translator(
        DagsterDbtTranslatorSettings(enable_source_tests_as_checks=True, enable_duplicate_source_asset_keys=True)
    )
