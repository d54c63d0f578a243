"""What an analyst reads and a webhook receives: an alert, or a digest of many, as title, text and JSON.

Knows no destination. Amounts are shown as stored (in the source's currency), times in UTC. In title and text a value
never starts a line of its own, however hostile it is; the payload has every value unchanged.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import polars as pl

from fraud_lakehouse.alerts.plain_text import one_line

Urgency = Literal["info", "warning", "failure"]
_URGENCY: dict[str, Urgency] = {"critical": "failure", "high": "failure", "medium": "warning"}
_DIGEST_IDS = 1000
_DIGEST_VALUE_LENGTH = 50
_LINE_LENGTH = 400  # so that an alert's text fits into the shortest chat message, 2,000 characters


@dataclass(frozen=True)
class Message:
    """One notification.

    `key` is the idempotency key: the alert_id, or for a digest the hash of its alert_ids. `payload` can be serialised
    as JSON and has the key as "alert_id" (alert) or "digest_id" (digest).
    """

    key: str
    title: str
    body: str
    urgency: Urgency
    payload: dict[str, Any] = field(default_factory=dict)


def alert_message(alert: Mapping[str, Any]) -> Message:
    """The message for one row of gold/alerts, optionally with user_id and amount."""
    evidence = _evidence(alert.get("evidence"))
    who = _entity(alert)
    amount = alert.get("amount", evidence.get("amount"))
    severity = str(alert.get("severity") or "medium")
    title = f"[{severity}] {_rule_words(alert['rule'])}: {who}" + (f", {_money(amount)}" if amount is not None else "")
    lines = [
        f"Who: {who}",
        f"How much: {_money(amount)}" if amount is not None else "",
        f"When: {_time(alert.get('event_time'))} (alert recorded {_time(alert.get('fired_at'))})",
        f"Why: {_reason(str(alert['rule']), evidence)}",
        f"Normal for this customer: {normal}" if (normal := _normal(evidence)) else "",
        f"Transaction: {one_line(alert.get('transaction_id'))} in {_origin(alert)}",
        f"Score: {_number(alert.get('score'))}" if alert.get("score") is not None else "",
        f"Rule: {alert['rule']} version {alert.get('rule_version')}",
        f"Alert: {alert['alert_id']}",
    ]
    payload = {name: _plain(value) for name, value in alert.items() if name != "evidence"}
    payload["evidence"] = evidence
    body = "\n".join(one_line(line, _LINE_LENGTH) for line in lines if line)
    return Message(str(alert["alert_id"]), one_line(title, _LINE_LENGTH), body, _URGENCY.get(severity, "info"), payload)


def digest_message(alerts: pl.DataFrame) -> Message:
    """One message for many alerts (rows of gold/alerts): counts by rule and the entities with most of them."""
    ids = alerts["alert_id"].to_list()
    key = hashlib.md5("|".join(sorted(ids)).encode(), usedforsecurity=False).hexdigest()
    by_rule = {row["rule"]: row["len"] for row in _counted(alerts, "rule").iter_rows(named=True)}
    top = [
        {
            "entity": f"{row['entity_type']} {row['entity_id']}",
            "alerts": row["len"],
            "highest_score": _plain(row["score"]),
        }
        for row in alerts.group_by("entity_type", "entity_id")
        .agg(pl.len(), pl.col("score").max())
        .sort(["len", "score", "entity_id"], descending=[True, True, False], nulls_last=True)
        .head(10)
        .iter_rows(named=True)
    ]
    lines = [f"{len(ids)} more alerts than are sent one by one; each is in gold/alerts.", "", "By rule:"]
    lines += [f"  {_rule_words(rule)}: {count}" for rule, count in by_rule.items()]
    lines += ["", "Most alerts:"]
    lines += [
        f"  {one_line(one['entity'], _DIGEST_VALUE_LENGTH)}: {one['alerts']} (highest score"
        f" {_number(one['highest_score'])})"
        for one in top
    ]
    lines += ["", f"From {_time(alerts['fired_at'].min())} to {_time(alerts['fired_at'].max())}", f"Digest: {key}"]
    worst = [_URGENCY.get(str(severity), "info") for severity in alerts["severity"].unique().to_list()]
    urgency: Urgency = "failure" if "failure" in worst else "warning" if "warning" in worst else "info"
    payload = {
        "digest_id": key,
        "alerts": len(ids),
        "by_rule": by_rule,
        "top_entities": top,
        "alert_ids": ids[:_DIGEST_IDS],
    }
    return Message(key, f"Digest of {len(ids)} alerts", "\n".join(lines), urgency, payload)


def _counted(alerts: pl.DataFrame, column: str) -> pl.DataFrame:
    return alerts.group_by(column).agg(pl.len()).sort(["len", column], descending=[True, False])


def _evidence(text: Any) -> dict[str, Any]:
    """The evidence JSON as an object; anything else is kept under "text"."""
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=str) if isinstance(text, str) else text
    except ValueError:
        return {"text": text}
    return value if isinstance(value, dict) else {} if value is None else {"text": value}


def _finite(number: str) -> float | str:
    """A JSON number; text if it is infinite as a float, which JSON cannot represent."""
    value = float(number)
    return value if math.isfinite(value) else number


def _entity(alert: Mapping[str, Any]) -> str:
    kind, name = alert.get("entity_type") or "user", alert.get("entity_id") or alert.get("user_id")
    return one_line(f"{kind} {name}" if name is not None else f"unknown {kind}")


def _origin(alert: Mapping[str, Any]) -> str:
    source, stream = one_line(alert.get("source")), alert.get("stream")
    return source if stream is None else f"{source} ({one_line(stream)})"


def _rule_words(rule: Any) -> str:
    return one_line(rule).removeprefix("rule_").replace("_", " ")


def _reason(rule: str, evidence: Mapping[str, Any]) -> str:
    """The sentence that the rule wrote into its evidence, or else the evidence's values."""
    terms = ", ".join(f"{name} = {_number(value)}" for name, value in evidence.items())
    return str(evidence.get("reason") or terms or _rule_words(rule))


def _normal(evidence: Mapping[str, Any]) -> str:
    """The customer's earlier payments; empty if the rule does not use them."""
    mean, count = evidence.get("prior_mean"), evidence.get("prior_count")
    if count == 0:
        return "not known, no earlier payment"
    known = [f"{_number(count)} earlier payments" if count else "", f"{_money(mean)} on average" if mean else ""]
    return ", ".join(part for part in known if part)


def _money(value: Any) -> str:
    try:
        return f"{float(value):,.2f}"
    except (TypeError, ValueError):
        return str(value)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{float(value):,.4g}" if abs(value) < 1000 else _money(value)


def _time(value: Any) -> str:
    if not isinstance(value, datetime):
        return "at an unknown time" if value is None else str(value)
    return value.astimezone(UTC).strftime("%F %T UTC") if value.tzinfo else value.strftime("%F %T")


def _plain(value: Any) -> Any:
    """A value as JSON can represent it: times as ISO 8601; decimals, other types, NaN and infinity as text."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
