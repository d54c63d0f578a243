"""A stream for tests of rules, and rule files written in short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fraud_lakehouse.rules import Rule, Scope, StreamRule, bind
from fraud_lakehouse.rules.scope import FACTS

CARDS = Scope(
    name="cards",
    kind="events",
    entities={
        "user": ("user_id",),
        "card": ("cc_num",),
        "user_merchant": ("user_id", "merchant"),
    },
    columns={
        "user_id": "bigint",
        "cc_num": "bigint",
        "merchant": "varchar",
        "category": "varchar",
        "is_fraud": "bigint",
        "amt": "double",
        "at": "timestamp",
        "amount": "double",
        "event_time": "timestamp",
        **FACTS,
        "max_amount": "bigint",
    },
    features={
        "count_10min": "bigint",
        "sum_10min": "double",
        "prior_mean": "double",
        "prior_count": "bigint",
        "user_amt_sum_24h": "double",
        "user_is_first": "boolean",
    },
    vectors={"user_amt_sum_24h": "double", "user_is_first": "boolean", "merchant_fraud_share_30d": "double"},
    delayed=frozenset({"merchant_fraud_share_30d"}),
    measures={"amt": True, "merchant": False, "fraud": True, "night": True},
    delayed_measures=frozenset({"fraud"}),
    amount="amt",
    label="is_fraud",
)
BANK = Scope(
    name="bank",
    kind="changes",
    entities={"user": ("user_id",)},
    columns={"user_id": "", "amount": "double", "event_time": "timestamp", **FACTS, "max_amount": "bigint"},
    features={"count_10min": "bigint", "sum_10min": "double", "prior_mean": "double", "prior_count": "bigint"},
    measures={"amount": True},
)
SCOPES = {scope.name: scope for scope in (CARDS, BANK)}
MINIMAL: dict[str, Any] = {
    "description": "A rule.",
    "streams": ["cards"],
    "severity": "low",
    "state": "live",
    "when": "amount > 1",
    "reason": "amount {amount}",
}


def write_rule(folder: Path, name: str = "mine", **keys: Any) -> Path:
    """A rule in the pipeline folder `folder`: the minimal one with these keys, one a line."""
    path = folder / "rules" / f"{name}.yml"
    path.parent.mkdir(exist_ok=True)
    rule = MINIMAL | {key.rstrip("_"): value for key, value in keys.items()}
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in rule.items()))
    return path


def bound(scope: Scope = CARDS, **keys: Any) -> StreamRule:
    """A rule on a stream."""
    rule = Rule.model_validate({**MINIMAL, "name": "mine", **keys})
    found = bind(rule, scope)
    assert isinstance(found, StreamRule), found
    return found
