"""The tiers: the models that are built together."""

from __future__ import annotations

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.transform.compiled import HOT, CompiledProject, Model

LANES = ("hot", "alerts", "follow", "replica", "features", "rest", "all")
UNTESTED = ("hot", "alerts", "follow")
ALERTS = "alerts"


def models_of(project: CompiledProject, tier: str) -> list[Model]:
    """The models of a tier, in order.

    Raises:
        TransformError: there is no such tier.
    """
    if tier not in LANES:
        raise TransformError(f"there is no tier {tier!r}", f"use one of {', '.join(LANES)}")
    if tier == "all":
        return list(project.models)
    if tier == "rest":
        return [model for model in project.models if not model.is_fast_path]
    if tier not in ("alerts", "follow"):
        return project.tagged(tier)
    before = {model.unique_id for model in project.with_parents(project.named([ALERTS]))}
    hot = project.tagged(HOT)
    return [model for model in hot if (model.unique_id in before) == (tier == "alerts")]
