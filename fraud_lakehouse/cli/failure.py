"""How an error ends a command: what is wrong and why, which command it ended, and the next step.

The cause of an exception is not printed: the text of a library's error may contain a password.
"""

from __future__ import annotations

import sys
from itertools import takewhile

from fraud_lakehouse.errors import EXIT_CODES, LakehouseError


def failure_lines(error: LakehouseError, command: str) -> list[tuple[str, str]]:
    """The lines to print, each with its style on a terminal.

    Args:
        command: the command that failed, as typed.
    """
    return [
        (f"error: {error.problem}", "bold red"),
        (f"  in: {command}; exit code {error.exit_code}, {EXIT_CODES[error.exit_code]}", "dim"),
        (f"  -> {error.fix or '`fraud-lakehouse status` shows the state of the lake and its sources'}", "bold"),
    ]


def print_failure(error: LakehouseError) -> None:
    """Print an error to standard error, in colour on a terminal."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for text, style in failure_lines(error, _command()):
        console.print(text, style=style)


def _command() -> str:
    """The command as typed, up to its first option."""
    words = takewhile(lambda word: not word.startswith("-"), sys.argv[1:])
    return " ".join(["fraud-lakehouse", *words])
