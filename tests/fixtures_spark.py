"""Real Apache Spark of the tests: one session a test session, started where the first test needs it.

Skipped, loudly, where Java or pyspark cannot be had, unless FRAUD_TEST_REQUIRE_SPARK=1.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.optional import not_tested
from tests.spark import VERSION, Spark, SparkMissingError


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    try:
        session = Spark(tmp_path_factory.mktemp("spark"))
    except SparkMissingError as reason:
        not_tested(f"Apache Spark {VERSION} cannot be had here: {reason}", "SPARK")
    yield session
    session.close()
