"""What holds for every test. Fixtures that need a server, and the sharing out to workers, have modules of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fraud_lakehouse import failpoints
from tests.declared import bank_and_cards

os.environ["FRAUD_PIPELINE"] = str(bank_and_cards())  # unless a test sets another, for its processes too

pytest_plugins = [
    f"tests.{name}"
    for name in (
        "fixtures_postgres",
        "fixtures_kafka",
        "fixtures_apache_kafka",
        "fixtures_object_store",
        "fixtures_spark",
        "distribution",
        "failures",
    )
]


@pytest.fixture
def shipped_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is about the shipped pipeline folder as a whole."""
    monkeypatch.delenv("FRAUD_PIPELINE")


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    """No test leaves a failpoint to the next one."""
    yield
    failpoints.disarm()
