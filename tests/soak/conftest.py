"""Stands for the fault tests: servers once, a lake for a module or for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from tests.soak.servers import EmbeddedSoakBroker, Servers
from tests.soak.stand import Stand

SEED = 20_261_122


@pytest.fixture(scope="session")
def servers(postgres: EmbeddedPostgres, embedded_kafka: EmbeddedKafka) -> Iterator[Servers]:
    """The session's servers, PostgreSQL behind a proxy."""
    with Servers(postgres, EmbeddedSoakBroker(embedded_kafka)) as running:
        yield running


@pytest.fixture(scope="module")
def stand(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A lake whose snapshot is landed, kept for all tests of a module."""
    made = Stand(servers, tmp_path_factory.mktemp("stand"), SEED)
    made.drain()
    yield made
    made.close()


@pytest.fixture
def new_stand(servers: Servers, tmp_path: Path) -> Iterator[Stand]:
    """A lake of the test's own, with nothing in it yet."""
    made = Stand(servers, tmp_path, SEED + 1)
    yield made
    made.close()
