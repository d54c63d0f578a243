"""Real Apache Kafka of the tests: one node a session, started where the first test needs it.

Skipped, loudly, where Java, Maven or the artifacts cannot be had, unless FRAUD_TEST_REQUIRE_APACHE_KAFKA=1.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apache_kafka import VERSION, ApacheKafka, ApacheKafkaMissingError
from tests.fixtures_kafka import Broker
from tests.optional import not_tested


@pytest.fixture(scope="session")
def apache_server() -> Iterator[ApacheKafka]:
    """The running node itself; its data survive `restart()`."""
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-apache-kafka-"))
    server = ApacheKafka(home)
    try:
        server.start()
        yield server
    except ApacheKafkaMissingError as reason:
        not_tested(f"Apache Kafka {VERSION} cannot be had here: {reason}", "APACHE_KAFKA")
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def apache_kafka(apache_server: ApacheKafka) -> Broker:
    return Broker(apache_server.bootstrap)
