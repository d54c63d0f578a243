"""The tiers: the models that are built together."""

from __future__ import annotations

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.transform.compiled import HOT, CompiledProject, Model

LANES = ("hot", "alerts", "follow", "replica", "features", "rest", "all")
UNTESTED = ("hot", "alerts", "follow")
ALERTS = "alerts"


def models_of(project: CompiledProject, lane: str) -> list[Model]:
    """The models of a tier, in order.

    Raises:
        TransformError: there is no such tier.
    """
    if lane not in LANES:
        raise TransformError(f"there is no tier {lane!r}", f"use one of {', '.join(LANES)}")
    if lane == "all":
        return list(project.models)
    if lane == "rest":
        return [model for model in project.models if not model.is_hot]
    if lane not in ("alerts", "follow"):
        return project.tagged(lane)
    before = {model.unique_id for model in project.with_parents(project.named([ALERTS]))}
    hot = project.tagged(HOT)
    return [model for model in hot if (model.unique_id in before) == (lane == "alerts")]
