from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from fraud_lakehouse.alerts.message import alert_message, digest_message
from tests.alert_receiver import alert_rows


def alert(rule: str, evidence: Any, **changes: Any) -> dict[str, Any]:
    (row,) = alert_rows(1, 1, rule=rule, evidence=evidence, **changes).to_dicts()
    return row


def test_text_says_who_how_much_why_and_what_is_normal() -> None:
    reason = "amount 5230.0 is 8.41 times the mean 622.1 of 12 earlier transactions"
    evidence = json.dumps({"reason": reason, "amount": 5230.0, "prior_mean": 622.1, "prior_count": 12, "k": 3})
    message = alert_message(alert("amount_above_mean", evidence, amount=5230.0, entity_id="17"))
    assert message.title == "[high] amount above mean: user 17, 5,230.00"
    assert "Who: user 17" in message.body
    assert "How much: 5,230.00" in message.body
    assert f"Why: {reason}" in message.body
    assert "Normal for this customer: 12 earlier payments, 622.10 on average" in message.body
    assert message.body.splitlines()[-1] == "Alert: a1"
    assert message.urgency == "failure"


@pytest.mark.parametrize(
    "rule, evidence, reason",
    [
        ("velocity", {"reason": "14 transactions", "count_10min": 14}, "Why: 14 transactions"),
        ("night_spending", {"hour": 3, "limit": 5}, "hour = 3, limit = 5"),
        ("night_spending", {}, "night spending"),
    ],
)
def test_the_reason_comes_from_the_evidence(rule: str, evidence: dict[str, Any], reason: str) -> None:
    message = alert_message(alert(rule, json.dumps(evidence)))
    assert reason in message.body
    assert "Normal" not in message.body, "the rule did not look at earlier payments"


@pytest.mark.parametrize(
    ("stream", "origin"), [("shop_payments", "shop.payments (shop_payments)"), (None, "shop.payments")]
)
def test_text_and_payload_say_the_stream_where_it_is_known(stream: str | None, origin: str) -> None:
    row = alert("velocity", "{}", entity_type="account", entity_id="a/1", source="shop.payments")
    message = alert_message(row | {"stream": stream})
    assert "Who: account a/1" in message.body
    assert f"in {origin}\n" in message.body
    assert message.payload["stream"] == stream


@pytest.mark.parametrize("evidence", [None, "", "not json", "[1, 2]"])
def test_evidence_that_is_no_object_does_not_stop_the_message(evidence: str | None) -> None:
    message = alert_message(alert("velocity", evidence))
    assert message.key == "a1"
    assert isinstance(message.payload["evidence"], dict)


def test_missing_values_and_special_numbers_still_make_json() -> None:
    row = alert("unknown_user", "{}", amount=None, score=float("nan"), entity_id=None, user_id=None, event_time=None)
    message = alert_message(row)
    assert "unknown user" in message.title
    payload = json.loads(json.dumps(message.payload, allow_nan=False))
    assert payload["score"] == "nan"


def test_digest_key_depends_on_the_alerts_and_not_on_their_order() -> None:
    rows = alert_rows(0, 6)
    digest = digest_message(rows)
    assert digest.key == digest_message(rows.reverse()).key
    assert digest.key != digest_message(rows.head(5)).key
    assert digest.title == "Digest of 6 alerts"
    assert "amount above mean: 3" in digest.body
    assert "user 0: 2 (highest score 3)" in digest.body
    assert str(datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC))[:19] in digest.body
    assert digest.urgency == "failure"
