"""The help of every command: it has an example, and the example is one that the command accepts."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from fraud_lakehouse import cli

ROOT: Any = typer.main.get_command(cli.app)


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command and group; none for the command line itself."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *path, name)


ALL = list(commands(ROOT))


def parsed(words: list[str]) -> list[str]:
    """The command that a command line names; it is parsed, not run."""
    context, command, path = ROOT.make_context("fraud-lakehouse", words), ROOT, []
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        path.append(name)
        context = command.make_context(name, rest, parent=context)
    return path


def test_all_commands_are_found() -> None:
    assert {
        (),
        ("features",),
        ("catch-up",),
        ("features", "as-of"),
        ("quarantine", "replay"),
        ("rules", "check"),
    } <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "all")
def test_the_help_has_an_example_that_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["fraud-lakehouse", *path, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = re.search(r"Example: (?:[A-Z_]+=\S+ )*fraud-lakehouse (.+)", capsys.readouterr().out)
    assert found is not None
    named = parsed(shlex.split(found[1]))
    assert named[: len(path)] == list(path)
