"""Progress of long commands: a bar on a terminal, only plain lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from fraud_lakehouse.cli.progress_bar import ProgressBar


def shown(*, is_terminal: bool) -> str:
    written = io.StringIO()
    console = Console(file=written, force_terminal=is_terminal, width=100)
    with ProgressBar("reading [a]", console) as bar:
        bar.line("bronze/[a]: 7 rows " + "x" * 200)
        bar.update("3 of 4 records", 3, 4)
    return written.getvalue()


def test_elsewhere_only_the_lines_are_printed_and_none_is_wrapped() -> None:
    assert shown(is_terminal=False) == "bronze/[a]: 7 rows " + "x" * 200 + "\n"


def test_on_a_terminal_the_bar_is_drawn_below_the_lines_and_removed_at_the_end() -> None:
    text = shown(is_terminal=True)
    assert "reading [a]" in text
    assert "3 of 4 records" in text
    assert text.index("bronze/[a]") < text.index("3 of 4 records")
    assert text.rstrip("\r\n").endswith("\x1b[2K"), "the bar's line is erased"
