"""The first lines of `status`: what needs attention, and how it is coloured on a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from fraud_lakehouse.checks.status import SourceStatus, Status
from fraud_lakehouse.cli.attention import attention
from fraud_lakehouse.cli.status_text import coloured, render

ALERTS: dict[str, Any] = {
    "open": 0,
    "undelivered": 0,
    "by_severity": {},
    "by_rule": {},
    "by_stream": {},
    "destinations": [],
}


def status(**fields: Any) -> Status:
    return Status("lake", datetime(2026, 1, 1, tzinfo=UTC), **{"alerts": ALERTS, **fields})


def table(name: str, error: str | None = None) -> dict[str, Any]:
    return {"table": name, "rows": 1, "version": 0, "freshness_seconds": 1.0, "error": error}


FAILING = {"destination": "json://host", "pending": 1, "failures": 2, "error": "no answer"}
HANGING = {"problem": "open for long", "fix": "abort it", "hanging": True}
LEFT_OUT = {"table": "public.tmp", "problem": "no key", "fix": "give it one"}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"sources": [SourceStatus("bank", "postgres", error="down")]}, "bank cannot be read"),
        ({"sources": [SourceStatus("bank", "postgres", slot_health={"level": "error"})]}, "bank: slot error"),
        ({"sources": [SourceStatus("bank", "postgres", left_out=[LEFT_OUT])]}, "bank: 1 table not captured"),
        ({"sources": [SourceStatus("cards", "kafka", open_transactions=[HANGING])]}, "cards: a transaction hangs"),
        ({"layers": {"gold": [table("a", "broken"), table("b")]}}, "tables that cannot be read: gold/a"),
        ({"alerts": ALERTS | {"destinations": [FAILING]}}, "alerts are not delivered to 1 destination"),
        ({"live": {"running": False, "lease": {"pid": 1, "age": 60.0}}}, "the live cycle hangs"),
        (
            {"live": {"running": True, "lease": None, "problems": {"bank": "no answer"}}},
            "the live cycle has a problem with bank",
        ),
        ({"rules": {"velocity": "no such column"}}, "1 rule with mistakes, not evaluated"),
        ({"outdated": [{"table": "gold/a"}]}, "features of another definition in gold/a"),
        ({"quarantined": 2}, "2 records in quarantine"),
        ({"problems": [{}]}, "1 gap that capture has not resumed from"),
    ],
)
def test_what_needs_attention_is_named_first(fields: dict[str, Any], line: str) -> None:
    assert attention(status(**fields)) == [line]


def test_a_well_lake_needs_no_attention() -> None:
    well = status(
        sources=[SourceStatus("bank", "postgres", slot_health={"level": "ok"})],
        layers={"gold": [table("alerts")]},
        live={"running": False, "lease": None, "problems": {"bank": "of the process that has ended"}},
    )
    assert attention(well) == []


def shown(report: Status, *, is_terminal: bool) -> str:
    written = io.StringIO()
    Console(file=written, force_terminal=is_terminal).print(coloured(render(report)), soft_wrap=True)
    return written.getvalue()


def test_colours_are_for_terminals_and_not_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    report = status(sources=[SourceStatus("bank", "postgres", error="[red]x" + "y" * 200)])
    plain = shown(report, is_terminal=False)
    assert plain == render(report) + "\n"
    assert plain.splitlines()[1:3] == ["Needs attention:", "  bank cannot be read"]
    assert "\x1b[31m  ERROR [red]xyyy" in shown(report, is_terminal=True)
    assert "\x1b[1;32mNothing needs attention." in shown(status(), is_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in shown(report, is_terminal=True)
