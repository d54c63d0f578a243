"""Faults on Apache Kafka: its log survives a restart, and transactions are aborted between the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from tests.apache_kafka import ApacheKafka
from tests.soak.conftest import SEED
from tests.soak.landing_faults import APACHE, Fault
from tests.soak.servers import ApacheSoakBroker, Servers
from tests.soak.stand import Stand
from tests.soak.test_landing_faults import survive

pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.postgres,
    pytest.mark.apache_kafka,
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module")
def apache_stand(
    postgres: EmbeddedPostgres, apache_server: ApacheKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    with Servers(postgres, ApacheSoakBroker(apache_server)) as servers:
        stand = Stand(servers, tmp_path_factory.mktemp("apache"), SEED)
        stand.drain()
        yield stand
        stand.close()
        assert stand.cards.aborted > 0


@pytest.mark.parametrize("fault", APACHE, ids=lambda fault: fault.name)
def test_landing_survives(apache_stand: Stand, fault: Fault) -> None:
    survive(apache_stand, fault)
