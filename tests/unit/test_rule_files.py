"""Rule files: every mistake with its line, each file on its own, and the folder they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fraud_lakehouse.rules import load_rules, run_examples
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.project import current_rules
from tests.declared import SHIPPED, write
from tests.rule_scopes import CARDS, SCOPES, write_rule


def mistakes(folder: Path, **keys: Any) -> list[str]:
    write_rule(folder, **keys)
    return [str(one) for one in load_rules(folder, SCOPES).all_mistakes()]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"severity": "hihg"},
        ":3: severity: found 'hihg', expected one of: low, medium, high, critical; did you mean high",
    ),
    ({"sevrity": "high"}, ":7: sevrity: unknown key, expected one of description, streams, except, kinds, entity"),
    ({"state": "on"}, ":4: state: found 'on', expected one of: draft, shadow, live, retired"),
    (
        {"streams": ["card"]},
        ":2: streams[0]: found 'card', expected a declared stream: cards, bank; did you mean cards?",
    ),
    ({"streams": "all", "except_": ["crads"]}, ":7: except[0]: found 'crads', expected a declared stream"),
    ({"except_": ["bank"]}, "expected it only with `streams: all`"),
    ({"weight": 101}, ":7: weight: found the value 101, expected a whole number from 0 to 100"),
    ({"weight": True}, ":7: weight: found the value true, expected a whole number"),
    ({"version": 0}, ":7: version: found the value 0, expected a whole number from 1 on"),
    ({"on": "arival"}, ":7: on: found 'arival', expected one of: arrival, vectors; did you mean arrival?"),
    ({"cooldown": "ten"}, ":7: cooldown: found 'ten', expected seconds"),
    ({"parameters": {"k": [1]}}, ":7: parameters: k: found a list, expected a number or a text"),
    (
        {"entity": "crad"},
        ":7: entity: 'crad' is no entity of cards, expected one of user, card, user_merchant; did you",
    ),
    ({"when": "amount >"}, ":5: when: `amount >` is no SQL expression"),
    ({"when": "amnt > 1"}, ":5: when: amnt is no parameter, feature or column of cards; did you mean amt?"),
    ({"when": "amount"}, ":5: when: `amount` is a number, expected a true or false; write a comparison"),
    ({"score": "category"}, ":7: score: `category` is a text, expected a number"),
    ({"reason": "amount {amnt}"}, ":6: reason: amnt is no parameter"),
    ({"reason": "amount {amount"}, ":6: reason: a brace without its pair, expected {expression}"),
    ({"evidence": ["amount", "amnt"]}, ":7: evidence[1]: amnt is no parameter"),
    ({"evidence": ["amount", "amount"]}, "the evidence has amount twice, expected each name once"),
    ({"evidence": ["reason"]}, "the evidence has reason twice"),
    (
        {"features": {"n": {"aggregate": "cuont", "window": "1 hour"}}},
        "features.n.aggregate: found 'cuont', expected one",
    ),
    ({"features": {"n": {"aggregate": "sum", "window": "1 hour"}}}, "features.n: the aggregate sum has no measure"),
    (
        {"features": {"n": {"aggregate": "count", "window": "1 houre"}}},
        "features.n.window: found '1 houre', expected a",
    ),
    (
        {"features": {"n": {"aggregate": "count", "windw": "1 hour"}}},
        "features.n.windw: unknown key.*did you mean window",
    ),
    ({"features": {"n": {"aggregate": "is_first", "window": "1 hour"}}}, "the aggregate is_first has a window"),
    ({"features": {"n": {"aggregate": "count", "current": True}}}, "found `current: true` without a window"),
    ({"examples": [{"given": {}}]}, ":7: examples[0]: the key 'fires' is missing, expected true or false"),
    ({"name_": "other"}, ":7: name: unknown key, expected none: the file's name is the rule's"),
]


@pytest.mark.parametrize("keys, expected", MISTAKES)
def test_a_mistake_names_file_line_and_what_was_expected(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    found = mistakes(tmp_path, **keys)
    wanted = expected.split(".*")
    assert any(one.startswith("rules/mine.yml:") and all(part in one for part in wanted) for one in found), found


def test_all_mistakes_of_a_file_are_found_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, when="amnt > 1 and cuont_10min > 2", score="category", reason="{sum(amount)}")
    assert [one.split(":")[1] for one in found] == ["5", "5", "6", "7"]


def test_a_broken_file_takes_no_other_rule_with_it(tmp_path: Path) -> None:
    write_rule(tmp_path, "good")
    write_rule(tmp_path, "bad", when="amnt > 1")
    (tmp_path / "rules" / "torn.yml").write_text("description: [")
    (tmp_path / "rules" / "empty.yml").write_text("")
    (tmp_path / "rules" / "Loud.yml").write_text("{}")
    (tmp_path / "rules" / "other.yaml").write_text("{}")
    (tmp_path / "rules" / "folder.yml").mkdir()
    rules = load_rules(tmp_path, SCOPES)
    assert [*rules.rules] == ["good"] and [one.rule.name for one in rules.of_stream("cards")] == ["good"]
    assert {*rules.mistakes} == {"bad", "torn", "empty", "Loud", "other", "folder"}
    assert all(rules.mistakes.values())


def test_a_missing_key_is_a_mistake(tmp_path: Path) -> None:
    path = write_rule(tmp_path)
    path.write_text(path.read_text().replace('severity: "low"\n', ""))
    (found,) = load_rules(tmp_path, SCOPES).all_mistakes()
    assert str(found) == (
        "rules/mine.yml:1: the key 'severity' is missing, expected one of low, medium, high, critical"
    )


def test_all_streams_are_those_that_have_every_name(tmp_path: Path) -> None:
    write_rule(tmp_path, "everywhere", streams="all", when="count_10min > 1")
    write_rule(tmp_path, "of_cards", streams="all", when="category = 'travel'")
    write_rule(tmp_path, "of_changes", streams="all", kinds=["changes"], when="count_10min > 1")
    write_rule(tmp_path, "but_bank", streams="all", except_=["bank"], when="count_10min > 1")
    write_rule(tmp_path, "nowhere", streams="all", when="catgory = 'travel'")
    rules = load_rules(tmp_path, SCOPES)
    assert {name: [one.scope.name for one in bound] for name, bound in rules.bound.items()} == {
        "everywhere": ["cards", "bank"],
        "of_cards": ["cards"],
        "of_changes": ["bank"],
        "but_bank": ["cards"],
    }
    assert [str(one) for one in rules.all_mistakes()] == [
        "rules/nowhere.yml:2: streams: no stream has every name that the rule uses, expected one that has",
        "rules/nowhere.yml:5: when: catgory is no parameter, feature or column of cards; did you mean category?",
    ]


def test_only_live_and_shadow_rules_are_evaluated(tmp_path: Path) -> None:
    for state in ("draft", "shadow", "live", "retired"):
        write_rule(tmp_path, state, state=state, when="card_count_60s > 1")
    write_rule(tmp_path, "later", on="vectors")
    rules = load_rules(tmp_path, SCOPES)
    assert len(rules.rules) == 5
    assert [one.rule.name for one in rules.of_stream("cards")] == ["live", "shadow"]
    assert [one.rule.name for one in rules.of_stream("cards", on="vectors")] == ["later"]
    assert [one.name for one in rules.requests("cards")] == ["card_count_60s"]


def test_the_version_tells_what_a_rule_says_and_not_how_it_is_written(tmp_path: Path) -> None:
    def version(**keys: Any) -> str:
        write_rule(tmp_path, **keys)
        return load_rules(tmp_path, SCOPES).rules["mine"].full_version

    first = version()
    assert first.startswith("1-") and len(first) == 10
    assert version(when="amount  >  1", description="Another.", state="shadow", severity="high") == first
    others = {
        version(when="amount > 2"),
        version(score="2"),
        version(parameters={"k": 1}),
        version(entity="card"),
        version(on="vectors"),
        version(features={"n": {"aggregate": "count", "window": "1 hour"}}),
        version(version=2),
    }
    assert len(others - {first}) == 7


def test_a_folder_without_rules_has_the_shipped_ones_that_its_streams_allow(tmp_path: Path) -> None:
    rules = load_rules(write(tmp_path), SCOPES)
    assert not rules.is_own and rules.folder == SHIPPED / "rules" and rules.all_mistakes() == []
    assert {"velocity", "amount_above_mean", "amount_below_mean", "amount_out_of_range"} <= {*rules.rules}
    other = {"cards": CARDS.__class__(**{**CARDS.__dict__, "features": {}})}
    assert "velocity" not in load_rules(tmp_path, other).rules


def test_a_folder_with_an_empty_rules_folder_has_none(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    rules = load_rules(tmp_path, SCOPES)
    assert rules.is_own and not rules.rules and not rules.mistakes


EXAMPLES: list[tuple[dict[str, Any], str]] = [
    ({"given": {"amount": 2}, "fires": True, "score": 2, "reason": "amount 2.0"}, ""),
    ({"given": {"amount": 1}, "fires": False}, ""),
    ({"given": {}, "fires": False}, ""),
    ({"given": {"amount": 1}, "fires": True}, "the rule does not fire, expected that it fires"),
    ({"given": {"amount": 2}, "fires": False}, "the rule fires, expected that it does not fire"),
    ({"given": {"amount": 2}, "fires": True, "score": 3}, "the score is 2.0, expected 3"),
    ({"given": {"amount": 2}, "fires": True, "reason": "much"}, "the reason is 'amount 2.0', expected 'much'"),
    ({"given": {"amuont": 2}, "fires": True}, "amuont is no name that the rule uses, expected one of amount, "),
    ({"given": {"amount": "two"}, "fires": True}, "amount: found 'two', expected a number"),
    ({"given": {"amount": True}, "fires": True}, "amount: found the value true, expected a number"),
    ({"given": {"k": 2}, "fires": True}, "k is a parameter, expected one of amount"),
]


@pytest.mark.parametrize("example, problem", EXAMPLES)
def test_examples_are_run(tmp_path: Path, example: dict[str, Any], problem: str) -> None:
    write_rule(tmp_path, when="amount > k", parameters={"k": 1}, score="amount", examples=[example])
    found = [str(one) for one in run_examples(load_rules(tmp_path, SCOPES))]
    assert bool(found) == bool(problem)
    assert all(one.startswith("rules/mine.yml:9: examples[0]: ") and problem in one for one in found), found


def test_a_rule_waits_for_a_declared_stream_that_has_no_models_yet(tmp_path: Path) -> None:
    (tmp_path / "streams.yml").write_text("later: {from: orders}\n")
    write_rule(tmp_path, "waits", streams=["later"])
    write_rule(tmp_path, "goes_on", streams=["cards", "later"])
    write_rule(tmp_path, "left_out", streams="all", except_=["later"])
    write_rule(tmp_path, "wrong", streams=["latter"])
    found = load_rules(tmp_path, SCOPES)
    assert set(found.rules) == {"goes_on", "left_out"}
    assert set(found.mistakes) == {"wrong"}


@pytest.mark.usefixtures("shipped_pipeline")
def test_the_shipped_rules_do_what_their_examples_say(tmp_path: Path) -> None:
    rules = current_rules(load_settings(lake=str(tmp_path)))
    assert rules.is_own and rules.all_mistakes() == [] and run_examples(rules) == []
    assert len(rules.rules) >= 20
    for name, rule in rules.rules.items():
        assert {example.fires for example in rule.examples} == {True, False}, name
