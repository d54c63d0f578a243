"""Exit codes: one meaning each, listed in the code and in the help."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections import defaultdict
from collections.abc import Iterator

import pytest

import fraud_lakehouse
from fraud_lakehouse.cli import commands as cli
from fraud_lakehouse.errors import DEFECT, EXIT_CODES, LakehouseError
from fraud_lakehouse.sources.postgres.errors import SlotLostError

NOT_IMPORTED = {"fraud_lakehouse.definitions"}  # builds the Dagster definitions when imported; has no errors


def error_classes() -> Iterator[type[LakehouseError]]:
    """Every class of the package's errors."""
    for module in pkgutil.walk_packages(fraud_lakehouse.__path__, "fraud_lakehouse."):
        if module.name not in NOT_IMPORTED:
            importlib.import_module(module.name)
    found = [LakehouseError]
    while found:
        one = found.pop()
        found += one.__subclasses__()
        if one.__module__.startswith("fraud_lakehouse."):
            yield one


def test_every_family_of_errors_has_an_exit_code_of_its_own() -> None:
    families: dict[int, list[str]] = defaultdict(list)
    for one in error_classes():
        assert one.exit_code in EXIT_CODES, one
        if "exit_code" in vars(one):
            families[one.exit_code].append(one.__name__)
    assert SlotLostError in set(error_classes())
    assert {code: names for code, names in families.items() if len(names) > 1} == {}
    assert {0, DEFECT, 130}.isdisjoint(families)
    assert {0, DEFECT, 130} | set(families) == set(EXIT_CODES), "no code is listed that nothing exits with"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fraud-lakehouse", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_help_lists_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    printed = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in printed


@pytest.mark.parametrize(
    "raised, code",
    [(SlotLostError("the slot is gone", "resync"), 4), (KeyError("a defect"), DEFECT), (KeyboardInterrupt(), 130)],
)
def test_a_command_exits_with_the_code_of_what_ended_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(cli, "_settings", fail)
    assert run(monkeypatch, "status") == code
    assert ("Traceback" in capsys.readouterr().err) == (code == DEFECT)


@pytest.mark.parametrize(
    "raised, last",
    [
        (SlotLostError("the slot is gone", "resync"), "  -> resync"),
        (
            LakehouseError("the slot is gone"),
            "  -> `fraud-lakehouse status` shows the state of the lake and its sources",
        ),
    ],
)
def test_an_error_says_what_where_and_the_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: LakehouseError, last: str
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(cli, "_settings", fail)
    assert run(monkeypatch, "status", "--json") == raised.exit_code
    where = f"  in: fraud-lakehouse status; exit code {raised.exit_code}, {EXIT_CODES[raised.exit_code]}"
    assert capsys.readouterr().err.splitlines() == ["error: the slot is gone", where, last]


def test_a_wrong_option_exits_as_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "status", "--no-such-option") == 2
