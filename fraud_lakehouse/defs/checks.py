"""Asset checks on gold/alerts that dbt tests cannot express: fraud findings with their evidence, drift, latency.

They never block: real fraud must not stop the pipeline. `checks/` decides what is evaluated and what passes.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from fraud_lakehouse.defs.metadata import markdown_table
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.defs.transform import ALERTS_KEY
from fraud_lakehouse.sources.configured import configured_sources
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.checks.anomaly_rate import RateDrift
    from fraud_lakehouse.checks.findings import Finding
    from fraud_lakehouse.checks.lag import KeepingUp
    from fraud_lakehouse.checks.latency import Latency
    from fraud_lakehouse.settings import Settings

DRIFT = "anomaly_rate"
LATENCY = "alert_latency"
BEHIND = "cycle_behind"
RULES = "rules_are_valid"
WINDOW = timedelta(hours=1)


def rule_check_name(rule: str) -> str:
    """The name of a rule's check on gold/alerts."""
    return f"rule_{rule}"


def alert_checks(rules: Mapping[str, str]) -> dg.AssetChecksDefinition:
    """Non-blocking checks on gold/alerts: one per rule, share of transactions with alerts, latency, backlog, mistakes.

    Args:
        rules: name -> description of each live rule.
    """
    specs = [
        dg.AssetCheckSpec(
            rule_check_name(rule),
            asset=ALERTS_KEY,
            blocking=False,
            description=f"{description.strip()} Passes if there is no alert in the last hour; else: how many, on whom.",
        )
        for rule, description in rules.items()
    ]
    drift = dg.AssetCheckSpec(
        DRIFT,
        asset=ALERTS_KEY,
        blocking=False,
        description="The share of transactions that raise alerts is as in the last 24 hours.",
    )

    latency = dg.AssetCheckSpec(
        LATENCY,
        asset=ALERTS_KEY,
        blocking=False,
        description="99 of 100 alerts of the last 10 minutes were recorded within FRAUD_ALERT_SECONDS of the commit.",
    )

    behind = dg.AssetCheckSpec(
        BEHIND,
        asset=ALERTS_KEY,
        blocking=False,
        description="The live cycle, if one runs, has scored what each source committed FRAUD_ALERT_SECONDS ago.",
    )

    mistakes = dg.AssetCheckSpec(
        RULES,
        asset=ALERTS_KEY,
        blocking=False,
        description="Every file of pipeline/rules is a valid rule.",
    )

    @dg.multi_asset_check(name="findings", specs=[*specs, drift, latency, behind, mistakes], can_subset=True)
    def findings(
        context: dg.AssetCheckExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> Iterator[dg.AssetCheckResult]:
        wanted = context.selected_asset_check_keys
        for evaluation in alert_evaluations(lakehouse.lake, list(rules), lakehouse.settings):
            if evaluation.asset_check_key in wanted:
                yield _result(evaluation)

    return findings


def alert_evaluations(lake: Lake, rules: Sequence[str], settings: "Settings") -> Iterator[dg.AssetCheckEvaluation]:
    """Every check on gold/alerts, evaluated now; the live run logs the results as they are."""
    from fraud_lakehouse.checks.anomaly_rate import evaluate_drift
    from fraud_lakehouse.checks.findings import evaluate_rules
    from fraud_lakehouse.checks.lag import keeping_up
    from fraud_lakehouse.checks.latency import evaluate_latency
    from fraud_lakehouse.transform.project import current_rules, current_streams

    for rule, finding in evaluate_rules(lake, rules, WINDOW).items():
        yield _warning(rule_check_name(rule), finding.passed, finding_metadata(finding))
    drift = evaluate_drift(lake, [stream.features for stream in current_streams(settings).values()])
    yield _warning(DRIFT, drift.passed, drift_metadata(drift))
    delay = max((config.update_delay for config in configured_sources(settings).values()), default=0.0)
    latency = evaluate_latency(lake, settings.alert_seconds + delay)
    yield _warning(LATENCY, latency.passed, latency_metadata(latency))
    behind = keeping_up(settings.work_dir, settings.alert_seconds)
    yield _warning(BEHIND, behind.passed, behind_metadata(behind))
    mistakes = [str(one) for one in current_rules(settings).all_mistakes()]
    yield _warning(RULES, not mistakes, {"mistakes": mistakes, "count": len(mistakes)})


def finding_metadata(finding: "Finding") -> dict[str, Any]:
    """A rule's evidence: count, threshold, window and the entities with most alerts."""
    offenders = pl.DataFrame([vars(one) for one in finding.top_offenders])
    return {
        "alerts": finding.count,
        "threshold": finding.threshold,
        "entities": finding.entities,
        "by severity": finding.by_severity,
        "by stream": finding.by_stream,
        "since": dg.MetadataValue.timestamp(finding.since),
        "until": dg.MetadataValue.timestamp(finding.until),
        **({"top offenders": dg.MetadataValue.md(markdown_table(offenders))} if offenders.height else {}),
    }


def drift_metadata(drift: "RateDrift") -> dict[str, Any]:
    """Why the rate counts as drifted or not, with the numbers; rates are alerts per evaluated transaction."""
    numbers = {name: value for name, value in drift.evidence().items() if isinstance(value, int | float)}
    return {"reason": drift.reason, **{name: value for name, value in numbers.items() if not isinstance(value, bool)}}


def latency_metadata(latency: "Latency") -> dict[str, Any]:
    """The latency of the alerts, in seconds, and the limit."""
    times = {"p50": latency.p50, "p99": latency.p99, "longest": latency.longest}
    return {
        "alerts": latency.alerts,
        "of older rows": latency.older,
        "limit": latency.limit,
        **{name: value for name, value in times.items() if value is not None},
    }


def behind_metadata(behind: "KeepingUp") -> dict[str, Any]:
    """How far the live cycle is behind, by source: seconds, and unscored rows."""
    if not behind.running:
        return {"live cycle": "none runs", "limit": behind.limit}
    return {
        "limit": behind.limit,
        **({"reason": "; ".join(behind.reasons)} if behind.reasons else {}),
        **{f"{source}, seconds": seconds for source, seconds in behind.seconds.items()},
        **{f"{source}, rows": rows for source, rows in behind.rows.items()},
    }


def _warning(name: str, passed: bool, metadata: dict[str, Any]) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=ALERTS_KEY,
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata,
        blocking=False,
    )


def _result(evaluation: dg.AssetCheckEvaluation) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=evaluation.asset_key,
        check_name=evaluation.check_name,
        passed=evaluation.passed,
        severity=evaluation.severity,
        metadata=evaluation.metadata,
    )
