"""Rules of a pipeline folder in the models: what they see, when a changed file counts, where findings are stored."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fraud_lakehouse.transform import fired
from fraud_lakehouse.transform.project import current_catalogue
from tests.catalogues import PIPELINE
from tests.dbt.small_lake import Row, SmallLake
from tests.declared import bank_and_cards

START = datetime(2026, 1, 1, 12)  # noqa: DTZ001 of payments, UTC
CATEGORIES = """\
description: One card pays in two merchant categories within 60 seconds.
streams: [card_payments]
entity: card
state: live
severity: high
features:
  categories: {aggregate: distinct, measure: category, window: 60 seconds}
when: categories >= 2
reason: "{categories} categories within a minute"
evidence: [categories, category]
"""
TINY = """\
description: Ten cards pay less than 2.00 each at one merchant within five minutes.
streams: [card_payments]
entity: merchant
state: live
severity: critical
features:
  cards: {aggregate: distinct, measure: cc_num, window: 5 minutes, filter: amount < 2}
when: cards >= 10 and amount < 2
reason: "{cards} cards with tiny amounts at {merchant}"
evidence: [cards]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline folder with the shipped declarations and no rule."""
    folder = tmp_path / "pipeline"
    shutil.copytree(bank_and_cards(), folder, ignore=shutil.ignore_patterns("rules"))
    (folder / "rules").mkdir()
    return folder


@pytest.fixture
def lake(tmp_path: Path, folder: Path) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path / "lake", pipeline=folder)
    yield lake
    lake.transformer.close()


class Cards:
    """Payments of one partition, in order."""

    def __init__(self, lake: SmallLake) -> None:
        self._lake = lake
        self._offset = 0

    def land(self, *payments: dict[str, Any]) -> None:
        """One commit; `at`: seconds after START."""
        rows: list[Row] = []
        for payment in payments:
            at = START + timedelta(seconds=payment["at"])
            rows.append(
                {"cc_num": 1, "merchant": "m", "category": "c", "amt": 10.0, "user_id": 7, "is_fraud": 0}
                | {name: value for name, value in payment.items() if name != "at"}
                | {"trans_num": f"p{self._offset}", "trans_date_trans_time": at.isoformat(" ")}
                | {
                    "_topic": "transaction",
                    "_partition": 0,
                    "_offset": self._offset,
                    "_timestamp": at.replace(tzinfo=UTC),
                }
            )
            self._offset += 1
        self._lake.land("card_transactions", rows)


def alerts(lake: SmallLake, table: str = "alerts") -> list[tuple[str, str, str, str]]:
    """Rule, entity and payment of each alert."""
    if not lake.lake.exists("gold", table):
        return []
    return sorted(
        (row["rule"], row["entity_type"], row["entity_id"], row["transaction_id"]) for row in lake.rows("gold", table)
    )


def test_a_new_rule_counts_from_the_next_build_on_and_knows_what_came_before(lake: SmallLake, folder: Path) -> None:
    cards = Cards(lake)
    cards.land({"at": 0, "category": "food"})
    lake.build("hot")
    (folder / "rules" / "two_categories.yml").write_text(CATEGORIES)
    cards.land(
        {"at": 60, "category": "travel"},
        {"at": 60.000001, "category": "travel"},
        {"at": 61, "category": "food", "cc_num": 2},
    )
    lake.build("hot")
    assert alerts(lake) == [("two_categories", "card", "1", "p1")], "the minute begins with 0, which p2 does not see"
    (row,) = lake.rows("gold", "alerts")
    assert json.loads(row["evidence"]) == {
        "reason": "2 categories within a minute",
        "categories": 2,
        "category": "travel",
    }


def test_what_a_rule_counts_has_its_filter(lake: SmallLake, folder: Path) -> None:
    (folder / "rules" / "tiny.yml").write_text(TINY)
    cards = Cards(lake)
    for number in range(9):
        cards.land({"at": number, "cc_num": number, "amt": 1.5})
    cards.land({"at": 9, "cc_num": 20, "amt": 2.0})
    lake.build("hot")
    assert alerts(lake) == []
    cards.land({"at": 10, "cc_num": 9, "amt": 0.5}, {"at": 11, "cc_num": 9, "amt": 5.0})
    lake.build("hot")
    assert alerts(lake) == [("tiny", "merchant", "m", "p10")]


def test_a_mistake_leaves_the_other_rules_and_the_version_before_in_force(lake: SmallLake, folder: Path) -> None:
    rules = folder / "rules"
    (rules / "two_categories.yml").write_text(CATEGORIES)
    (rules / "large.yml").write_text(
        "description: Large.\nstreams: [card_payments]\nstate: live\nseverity: low\nwhen: amount > 100\nreason: large\n"
    )
    cards = Cards(lake)
    cards.land({"at": 0, "amt": 200.0})
    lake.build("hot")
    assert alerts(lake) == [("large", "user", "7", "p0")]
    (rules / "large.yml").write_text((rules / "large.yml").read_text().replace("amount", "amuont"))
    (rules / "new.yml").write_text("description: New.\n")
    cards.land({"at": 1, "amt": 300.0, "category": "travel"})
    lake.build("hot")
    assert alerts(lake) == [
        ("large", "user", "7", "p0"),
        ("large", "user", "7", "p1"),
        ("two_categories", "card", "1", "p1"),
    ]
    mistakes = lake.transformer.mistakes
    assert set(mistakes) == {"large", "new"}
    assert "rules/large.yml:5" in mistakes["large"] and "amount" in mistakes["large"]
    assert "the previous version stays in force" in mistakes["large"] and "in force" not in mistakes["new"]


def test_what_a_shadow_rule_finds_is_no_alert(lake: SmallLake, folder: Path) -> None:
    (folder / "rules" / "two_categories.yml").write_text(CATEGORIES.replace("live", "shadow"))
    cards = Cards(lake)
    cards.land({"at": 0, "category": "food"}, {"at": 1, "category": "travel"})
    lake.build("hot")
    assert alerts(lake) == []
    assert alerts(lake, "shadow_alerts") == [("two_categories", "card", "1", "p1")]


def test_a_rule_on_vectors_fires_when_they_are_built(lake: SmallLake, folder: Path) -> None:
    (folder / "rules" / "known_fraud.yml").write_text(
        "description: The merchant has had fraud.\nstreams: [card_payments]\nentity: merchant\non: vectors\n"
        "state: live\nseverity: high\nwhen: merchant_frauds_30d >= 1 and amount > 5 and zipcode = '12345'\n"
        "reason: fraud at {merchant}\n"
        "evidence: [merchant_frauds_30d]\n"
    )
    cards = Cards(lake)
    week = 8 * 86_400
    cards.land({"at": 0, "is_fraud": 1})
    cards.land({"at": week, "zipcode": "12345"}, {"at": week + 1, "zipcode": "54321"}, {"at": week + 60})
    lake.build("hot")
    assert alerts(lake) == []
    lake.observe(datetime(2026, 2, 1, tzinfo=UTC))
    lake.build("features")
    lake.build("hot")
    assert alerts(lake) == [("known_fraud", "merchant", "m", "p1")]
    lake.build("features")
    lake.build("hot")
    assert len(alerts(lake)) == 1


def test_features_of_rules_are_the_same_warm_and_cold(lake: SmallLake, folder: Path) -> None:
    """Whatever the split into builds, and also where the engine is filled from the table again."""
    names = [
        *("user_amt_sum_24h", "card_amt_max_30d", "merchant_distinct_card_1h", "user_merchant_is_first"),
        *("category_amt_mean_7d", "user_amt_z_30d", "card_seconds_since_last", "user_amt_median_30d"),
    ]
    when = " or ".join(f"{name} is not null" for name in names if not name.startswith("merchant_distinct"))
    (folder / "rules" / "all.yml").write_text(
        f"description: Everything.\nstreams: [card_payments]\nstate: live\nseverity: low\n"
        f"when: merchant_distinct_cc_num_1h > 0 or {when}\nreason: any\n"
    )
    cards = Cards(lake)
    for number in range(30):
        payments = [
            {
                "at": 700 * number - 1000 * (extra % 3),
                "amt": 5.0 + extra,
                "merchant": f"m{extra % 2}",
                "cc_num": extra % 3,
            }
            for extra in range(number % 4 + 1)
        ]
        cards.land(*payments)
        if number % 5 == 0:
            lake.transformer.close()
        lake.build_only("card_transactions", "card_transaction_features")
    warm = lake.rows("gold", "card_transaction_features")
    lake.build_only("card_transactions", "card_transaction_features", full_refresh=True)
    cold = lake.rows("gold", "card_transaction_features")

    def plain(rows: list[Row]) -> list[Row]:
        kept = [{k: v for k, v in row.items() if k not in ("scored_at", "_commit")} for row in rows]
        return sorted(kept, key=lambda row: str(row["transaction_id"]))

    assert {"card_amt_max_30d", "user_amt_z_30d", "user_merchant_is_first"} <= set(cold[0])
    assert plain(warm) == plain(cold)


def test_many_payments_fire_as_few_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database evaluates rules on many payments, Python on few: the shipped rules find and say the same."""
    rng, at, payments = random.Random(9), 0.0, []
    for _ in range(200):
        at += rng.choice([1.0, 20.0, 3_600.0])
        payments.append(
            {"at": at, "amt": rng.choice([0.5, 12.34, 99.99, 4000.0, math.nan, 3e12]), "merchant": rng.choice("ab'")}
            | {"cc_num": rng.choice([1, 2, None]), "category": rng.choice(["x", 'y"', None])}
        )
    found = []
    for most_rows in (-1, 1_000):
        monkeypatch.setattr(fired, "MOST_ROWS", most_rows)
        lake = SmallLake(tmp_path / str(most_rows), pipeline=PIPELINE)
        Cards(lake).land(*payments)
        lake.build("hot")
        lake.transformer.close()
        rows = [row for table in ("alerts", "shadow_alerts") for row in lake.rows("gold", table)]
        found.append(
            {
                (row["rule"], row["transaction_id"]): (row["entity_id"], row["score"], json.loads(row["evidence"]))
                for row in rows
            }
        )
    assert len({rule for rule, _ in found[0]}) >= 8
    assert found[0] == found[1]


def test_what_is_older_than_every_window_counts_in_totals_and_late_payments_find_it(lake: SmallLake) -> None:
    """A process that starts reads but totals of old payments; one whose time lies among them reads more."""
    day = 86_400
    cards = Cards(lake)
    cards.land(*({"at": number, "amt": 10.0 + number} for number in range(5)))
    cards.land({"at": 10 * day, "amt": 100.0})
    lake.build("hot")
    lake.transformer.close()
    cards.land({"at": 10 * day + 60, "amt": 200.0})
    lake.build("hot")
    cards.land({"at": 3, "amt": 1.0})
    lake.build("hot")
    found = {row["transaction_id"]: row for row in lake.rows("gold", "card_transaction_features")}
    names = ("prior_count", "prior_mean", "count_10min", "sum_10min")
    assert [found["p6"][name] for name in names] == [6, (60 + 100) / 6, 2, 300.0]
    assert [found["p7"][name] for name in names] == [3, 11.0, 5, 47.0]


def test_the_engine_computes_what_the_vectors_have(lake: SmallLake, folder: Path) -> None:
    """Every feature of the vectors that waits for no label, of payments that arrive in order of their time."""
    catalogue = current_catalogue(lake.settings)
    assert catalogue is not None
    delayed = {one.name for one in catalogue.of_table("card_feature_vectors") if one.delay is not None}
    names = [
        one.name
        for one in catalogue.of_table("card_feature_vectors")
        if one.name not in delayed and not delayed & {*catalogue.needed(one)["uses"]}
    ]
    assert len(names) > 150
    (folder / "rules" / "every.yml").write_text(
        "description: Every feature.\nstreams: [card_payments]\nstate: live\nseverity: low\nwhen: amount < 0\n"
        f"reason: none\nevidence: [{', '.join(names)}]\n"
    )
    rng = random.Random(5)
    cards, at = Cards(lake), 0.0
    for _ in range(6):
        payments = []
        for _ in range(30):
            at += rng.choice([1.0, 59.0, 3_600.0, 40_000.0])
            payments.append(
                {"at": at, "amt": rng.choice([0.5, 12.34, 99.99, 4000.0]), "merchant": rng.choice("ab")}
                | {"cc_num": rng.choice([1, 2, 3]), "category": rng.choice("xy"), "user_id": rng.choice([7, 8])}
            )
        cards.land(*payments)
        lake.build("hot")
    lake.observe(START.replace(tzinfo=UTC) + timedelta(days=365))
    lake.build("features")
    vectors = {row["trans_num"]: row for row in lake.rows("gold", "card_feature_vectors")}
    features = lake.rows("gold", "card_transaction_features")
    assert len(features) == len(vectors) == 180
    for row in features:
        for name in names:
            expected, found = vectors[row["transaction_id"]][name], row[name]
            if isinstance(expected, float) and found is not None:
                assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), (row["transaction_id"], name)
            else:
                assert found == expected, (row["transaction_id"], name)
