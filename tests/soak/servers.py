"""The servers of a soak: PostgreSQL behind a proxy, and a broker that can be frozen or (Apache Kafka) restarted."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psycopg
from psycopg import conninfo, sql

from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from tests.apache_kafka import VERSION, ApacheKafka
from tests.fixtures_kafka import Broker
from tests.soak.proxy import Proxy


class SoakBroker(Protocol):
    """What a soak needs of a broker."""

    keeps: bool
    """Whether its log survives a restart, and it knows transactions."""

    @property
    def version(self) -> str:
        """Its name, for the report."""

    @property
    def bootstrap(self) -> str:
        """host:port."""

    @property
    def pid(self) -> int:
        """Its process."""

    def restart(self) -> None:
        """Kill it and start it on the same data and port."""

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic."""


class EmbeddedSoakBroker:
    """The broker of the demo: memory only, so it is never restarted."""

    keeps = False

    def __init__(self, server: EmbeddedKafka) -> None:
        self._server = server

    @property
    def version(self) -> str:
        return "Tansu, the embedded broker (memory only)"

    @property
    def bootstrap(self) -> str:
        return self._server.bootstrap

    @property
    def pid(self) -> int:
        return int((self._server.home / "broker.pid").read_text())

    def restart(self) -> None:
        raise NotImplementedError("the embedded broker forgets everything")

    def create_topic(self, name: str, partitions: int) -> None:
        self._server.create_topic(name, partitions)


class ApacheSoakBroker:
    """Apache Kafka, KRaft."""

    keeps = True

    def __init__(self, server: ApacheKafka) -> None:
        self._server = server

    @property
    def version(self) -> str:
        return f"Apache Kafka {VERSION}"

    @property
    def bootstrap(self) -> str:
        return self._server.bootstrap

    @property
    def pid(self) -> int:
        assert self._server._process is not None, "it is not started"
        return self._server._process.pid

    def restart(self) -> None:
        self._server.restart()

    def create_topic(self, name: str, partitions: int) -> None:
        Broker(self.bootstrap).create(name, partitions)


class Servers:
    """A running PostgreSQL and a running broker, with a proxy before the first; a context manager.

    Args:
        postgres: started; `crash` stops it at once and starts it again.
        broker: started.
    """

    def __init__(self, postgres: EmbeddedPostgres, broker: SoakBroker) -> None:
        self.postgres = postgres
        self.broker = broker
        self.proxy = Proxy()
        self._point_proxy()

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.close()

    @property
    def postgres_version(self) -> str:
        """The server's own words."""
        with psycopg.connect(self.postgres.dsn) as connection:
            row = connection.execute("show server_version").fetchone()
        assert row is not None
        return str(row[0])

    def through_proxy(self, dsn: str) -> str:
        """The same database, reached through the proxy."""
        return conninfo.make_conninfo(dsn, port=self.proxy.port)

    def crash_postgres(self) -> None:
        """An immediate stop, as a crash of the server, and a start."""
        self.postgres.stop("immediate")
        self.postgres.start()
        self._point_proxy()

    def end_sessions(self, database: str) -> int:
        """Let the server end every session of the product in a database; how many there were."""
        with psycopg.connect(self.postgres.dsn, autocommit=True) as connection:
            row = connection.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where datname = %s and starts_with(application_name, 'fraud_lakehouse')",
                (database,),
            ).fetchone()
        assert row is not None
        return int(row[0])

    @contextlib.contextmanager
    def unreachable(self, database: str) -> Iterator[None]:
        """A database ends all its sessions and accepts no new one."""
        accepts = sql.SQL("alter database {} allow_connections {}")
        with psycopg.connect(self.postgres.dsn, autocommit=True) as connection:
            connection.execute(accepts.format(sql.Identifier(database), sql.SQL("false")))
            try:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (database,)
                )
                yield
            finally:
                connection.execute(accepts.format(sql.Identifier(database), sql.SQL("true")))

    @contextlib.contextmanager
    def frozen_broker(self) -> Iterator[None]:
        """The broker accepts connections and answers nothing."""
        os.kill(self.broker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.broker.pid, signal.SIGCONT)

    def _point_proxy(self) -> None:
        port = conninfo.conninfo_to_dict(self.postgres.dsn)["port"]
        assert port is not None
        self.proxy.upstream = ("127.0.0.1", int(port))


def server_home(folder: Path) -> Path:
    """A folder in which a server may run as another user of the system."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    return folder
