"""What a machine may lack: where what is fetched for tests is kept, and how a test is told that cannot be run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest


def is_required(name: str) -> bool:
    """Whether FRAUD_TEST_REQUIRE_<name>=1 says that its tests must run."""
    return os.environ.get(f"FRAUD_TEST_REQUIRE_{name}") == "1"


def not_tested(why: str, name: str) -> NoReturn:
    """Skip, loudly; fail where it is required."""
    reported = f"NOT TESTED: {why}"
    if is_required(name):
        pytest.fail(reported)
    pytest.skip(reported)


def cache(name: str, version: str) -> Path:
    """The folder that is kept from run to run: $XDG_CACHE_HOME (default ~/.cache)/fraud_lakehouse/<name>/<version>."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "fraud_lakehouse" / name / version
