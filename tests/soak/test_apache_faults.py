"""Faults on Apache Kafka: its log survives a restart, and transactions are aborted between the others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from tests.apache_kafka import VERSION, ApacheKafka, ApacheKafkaMissingError
from tests.soak.conftest import SEED
from tests.soak.landing_faults import APACHE, Fault
from tests.soak.servers import ApacheSoakBroker, Servers
from tests.soak.stand import Stand
from tests.soak.test_landing_faults import survive

pytestmark = [pytest.mark.crash, pytest.mark.postgres, pytest.mark.apache_kafka, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def apache_stand(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-apache-kafka-"))
    server = ApacheKafka(home)
    try:
        server.start()
        with Servers(postgres, ApacheSoakBroker(server)) as servers:
            stand = Stand(servers, tmp_path_factory.mktemp("apache"), SEED)
            stand.drain()
            yield stand
            stand.close()
            assert stand.cards.aborted > 0
    except ApacheKafkaMissingError as reason:
        told = f"Apache Kafka {VERSION} cannot be had here, no fault is tested with it: {reason}"
        if os.environ.get("FRAUD_TEST_REQUIRE_APACHE_KAFKA") == "1":
            pytest.fail(told)
        pytest.skip(told)
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("fault", APACHE, ids=lambda fault: fault.name)
def test_landing_survives(apache_stand: Stand, fault: Fault) -> None:
    survive(apache_stand, fault)
