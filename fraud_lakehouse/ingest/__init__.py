"""Ingests batches of any source into bronze exactly once; quarantine, resync, schema evolution, operator commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fraud_lakehouse.ingest.base import SourceIngest, Waiting
from fraud_lakehouse.ingest.idle_partitions import Windows
from fraud_lakehouse.ingest.ingested import Ingested
from fraud_lakehouse.ingest.kafka import KafkaIngest, accept_kafka
from fraud_lakehouse.ingest.operator_actions import accept_postgres, forget_slot
from fraud_lakehouse.ingest.postgres import PostgresIngest, open_capture
from fraud_lakehouse.ingest.resync_run import ResyncReport
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import SourceConfig, declared_sources, postgres_source, source_named
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.storage.audit import RENAMED
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import TURN_SECONDS, writer_lock

__all__ = [
    "Ingested",
    "KafkaIngest",
    "PostgresIngest",
    "SourceIngest",
    "Waiting",
    "accept",
    "forget_postgres_slot",
    "open_ingest",
    "resync",
]


def open_ingest(
    config: SourceConfig, settings: Settings, lake: Lake, windows: Callable[[], Sequence[Windows]]
) -> SourceIngest:
    """The ingestion of a source, not yet connected.

    Args:
        windows: the windows at whose ends an idle topic records a heartbeat.

    Raises:
        SettingsError: a connection string or properties file has mistakes.
    """
    if isinstance(config, PostgresConfig):
        return PostgresIngest(settings, lake, config)
    return KafkaIngest(settings, lake, config, windows=windows)


def resync(settings: Settings, lake: Lake, names: Sequence[str], source: str | None = None) -> ResyncReport:
    """Make tables match PostgreSQL without a gap (`fraud-lakehouse resync [TABLE…]`), under the writer's lock.

    Args:
        names: bronze names, or `[schema.]table` of the source; if empty, every captured table.
        source: which database; default: the only one.

    Raises:
        SettingsError: there is no such database. ConcurrentWriterError: waiting for the lock timed out.
        SourceError, GapError, LakeError: as `PostgresIngest.resync`.
    """
    config = postgres_source(settings, source)
    with (
        writer_lock(settings.work_dir, TURN_SECONDS, config.name),
        PostgresIngest(settings, lake, config) as ingest,
    ):
        return ingest.resync(names)


def forget_postgres_slot(settings: Settings, lake: Lake, source: str | None = None) -> tuple[str, bool]:
    """Drop the slot on the server (`fraud-lakehouse forget-slot`), under the writer's lock.

    Args:
        source: which database; default: the only one.

    Returns:
        the slot's name, and whether it existed.

    Raises:
        SettingsError: there is no such database. SlotInUseError: a process is reading it. SourceError: it cannot be
            dropped.
    """
    config = postgres_source(settings, source)
    with writer_lock(settings.work_dir, TURN_SECONDS, config.name):
        return config.slot, forget_slot(lake, open_capture(settings, lake, config))


def accept(settings: Settings, lake: Lake, source: str) -> str:
    """Accept a source's current identity (`fraud-lakehouse accept-source NAME`).

    Args:
        source: its name; `postgres` and `kafka` also name the shipped ones.

    Returns:
        the accepted identity.

    Raises:
        SettingsError: there is no such source, or its connection is not configured.
        SourceError: the source cannot be reached.
    """
    is_declared = any(one.name == source for one in declared_sources(settings))
    config = source_named(settings, source if is_declared else RENAMED.get(source, source))
    if isinstance(config, PostgresConfig):
        return accept_postgres(lake, open_capture(settings, lake, config))
    return accept_kafka(settings, lake, config)
