"""A progress bar on a terminal; elsewhere only the lines that are printed meanwhile."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class ProgressBar:
    """Shows how far a long command is, below the lines it prints, until the block ends.

    Args:
        task: what is being done, such as "catching up".
        console: where it is shown; default: standard output.
    """

    def __init__(self, task: str, console: Console | None = None) -> None:
        self._console = console or Console()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        is_shown = self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not is_shown)
        self._task = self._bar.add_task(task, total=None)

    def line(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def update(self, task: str, done: int = 0, total: int | None = None) -> None:
        """Say what is being done now and how much of it is; a total of None is not known."""
        self._bar.update(self._task, description=task, completed=done, total=total)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
