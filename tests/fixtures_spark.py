"""Real Apache Spark of the tests: one session a test session, started where the first test needs it.

Skipped, loudly, where Java or pyspark cannot be had, unless FRAUD_TEST_REQUIRE_SPARK=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.spark import VERSION, Spark, SparkMissingError


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    try:
        session = Spark(tmp_path_factory.mktemp("spark"))
    except SparkMissingError as reason:
        told = f"NOT TESTED: Apache Spark {VERSION} cannot be had here: {reason}"
        if os.environ.get("FRAUD_TEST_REQUIRE_SPARK") == "1":
            pytest.fail(told)
        pytest.skip(told)
    yield session
    session.close()
