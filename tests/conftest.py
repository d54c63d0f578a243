"""What holds for every test. Fixtures that need a server, and the sharing out to workers, have modules of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fraud_lakehouse import failpoints

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


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    """No test leaves a failpoint to the next one."""
    yield
    failpoints.disarm()
