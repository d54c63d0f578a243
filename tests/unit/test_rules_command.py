"""The command `rules check`, and what `pipeline check` says of rules."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from fraud_lakehouse import cli
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline import PipelineError
from tests.declared import SHIPPED, write
from tests.rule_scopes import write_rule


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fraud-lakehouse", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped pipeline folder, as someone's own."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "pipeline"))


def test_rules_check_shows_each_rule_and_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_rule(folder, "spree", streams=["card_payments"], entity="card", when="card_distinct_category_60s > 1")
    assert run(monkeypatch, "rules", "check", str(folder)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["rule", "state", "severity", "streams", "entity", "features"]
    assert ["spree", "live", "low", "card_payments", "card", "card_distinct_category_60s"] in lines
    assert ["velocity", "live", "high", "bank_payments,", "card_payments,", "account_payments"] in [
        line[:6] for line in lines
    ]
    assert lines[-1][1] == "rules," and lines[-1][-2:] == ["no", "mistakes"]


def test_rules_check_reports_mistakes_and_wrong_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_rule(folder, "broken", streams=["card_payments"], when="amnt > 1")
    write_rule(folder, "wrong", streams=["card_payments"], examples=[{"given": {"amount": 2}, "fires": False}])
    assert run(monkeypatch, "rules", "check", str(folder)) == PipelineError.exit_code
    *table, broken, wrong = capsys.readouterr().out.splitlines()
    assert broken.startswith("rules/broken.yml:5: when: amnt is no parameter, feature or column of card_payments")
    assert wrong == "rules/wrong.yml:7: examples[0]: the rule fires, expected that it does not fire"
    assert any(line.startswith("wrong ") for line in table)
    assert run(monkeypatch, "rules", "check", str(folder), "--rule", "wrong") == PipelineError.exit_code
    assert capsys.readouterr().out.splitlines()[1:] == [
        "wrong  live   low       card_payments  user",
        "rules/wrong.yml:7: examples[0]: the rule fires, expected that it does not fire",
    ]
    assert run(monkeypatch, "rules", "check", str(folder), "--rule", "velocity") == 0


def test_rules_check_of_a_rule_that_is_not_there_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "rules", "check", "--rule", "velocty") == SettingsError.exit_code
    assert "there is no rule 'velocty'" in (error := capsys.readouterr().err) and "did you mean velocity?" in error


def test_pipeline_check_reports_mistakes_of_rules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_rule(folder, "broken", severity="hihg", streams=["card_payments"])
    assert run(monkeypatch, "pipeline", "check", str(folder)) == PipelineError.exit_code
    assert capsys.readouterr().out.startswith("rules/broken.yml:3: severity: found 'hihg'")


def test_the_shipped_rules_are_no_mistake_of_a_folder_with_other_streams(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(
        tmp_path,
        streams="payins: {from: wires, kind: events, id: id, time: paid, amount: amt, entities: {s: sender_id}}",
    )
    (tmp_path / "sources.yml").write_text((tmp_path / "sources.yml").read_text().replace(" at:", " paid:"))
    assert run(monkeypatch, "rules", "check", str(tmp_path)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["velocity", "live", "high", "payins", "s"] in [line[:5] for line in lines]
    assert "unknown_user" not in [line[0] for line in lines]


def test_one_rule_is_counted_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_rule(folder, "spree", streams=["card_payments"], examples=[{"given": {"amount": 2}, "fires": True}])
    assert run(monkeypatch, "rules", "check", str(folder), "--rule", "spree") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 rule, 1 example: no mistakes"
