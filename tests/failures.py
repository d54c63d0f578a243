"""A failed test is told when it fails: a run that is ended before its summary has then said which it was."""

from __future__ import annotations

from typing import Any

import pytest


class ToldAtOnce:
    """Writes a failed test's name and the end of its traceback as soon as its report is there."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\nFAILED after {report.duration:.0f} s: {report.nodeid} ({report.when})", red=True)
            terminal.write_line("\n".join(report.longreprtext.splitlines()[-25:]))


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.has_plugin("xdist") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ToldAtOnce(config), "failures_told_at_once")
