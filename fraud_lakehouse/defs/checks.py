"""Asset checks that say what a dbt test cannot: fraud findings with their evidence, broken contracts, drift.

Findings never block (real fraud must not stop the pipeline); a broken contract does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg

from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.lake.lake import Lake

ALERTS_KEY = dg.AssetKey(["gold", "alerts"])


def rule_evaluations(lake: Lake, rules: Sequence[str]) -> Iterator[dg.AssetCheckEvaluation]:
    """Every rule's check, evaluated now."""
    yield from ()
