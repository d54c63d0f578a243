"""The parts of the project that are built together, in dbt's words."""

from __future__ import annotations

from collections.abc import Sequence

LANES = {
    "hot": ["--select", "tag:hot"],
    "alerts": ["--select", "+alerts,tag:hot"],
    "follow": ["--select", "tag:hot", "--exclude", "+alerts"],
    "replica": ["--select", "tag:replica"],
    "features": ["--select", "tag:features"],
    "rest": ["--exclude", "tag:hot"],
    "hot_tests": ["--select", "tag:hot", "--resource-type", "test"],
    "all": [],
}
UNTESTED = ("hot", "alerts", "follow")
NO_UNIT_TESTS = ("--exclude-resource-type", "unit_test")
NO_TESTS = (*NO_UNIT_TESTS, "--exclude-resource-type", "test")


def options_of(lane: str, left_out: Sequence[str] = (), *, full_refresh: bool = False) -> list[str]:
    """The options that select a lane without what is left out: `--exclude` may be given once only."""
    options = [*LANES[lane]]
    if left_out:
        options += left_out if "--exclude" in options else ["--exclude", *left_out]
    return [*options, *(["--full-refresh"] if full_refresh else [])]
