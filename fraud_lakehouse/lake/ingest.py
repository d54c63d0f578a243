"""The two ways in, and the operator's word when a source is no longer the one it was."""

from __future__ import annotations

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.lake.ingest_kafka import KafkaIngest, accept_kafka
from fraud_lakehouse.lake.ingest_postgres import PostgresIngest, accept_postgres
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.landed import Landed
from fraud_lakehouse.settings import Settings

__all__ = ["KafkaIngest", "Landed", "PostgresIngest", "accept"]


def accept(settings: Settings, lake: Lake, source: str) -> str:
    """Accept a source as it is now (`fraud-lakehouse accept-source postgres|kafka`).

    Returns:
        the accepted identity.

    Raises:
        SettingsError: there is no such source, or it is not set.
        SourceError: the source cannot be reached.
    """
    if source == "postgres" and settings.postgres_dsn is not None:
        return accept_postgres(settings, lake)
    if source == "kafka" and settings.kafka_bootstrap_servers is not None:
        return accept_kafka(settings, lake)
    if source in ("postgres", "kafka"):
        variable = "FRAUD_POSTGRES_DSN" if source == "postgres" else "FRAUD_KAFKA_BOOTSTRAP_SERVERS"
        raise SettingsError(f"the source {source!r} is not set", f"set {variable}")
    raise SettingsError(f"there is no source {source!r}", "name one of: postgres, kafka")
