"""The two ways in, and the operator's word when a source is no longer the one it was."""

from __future__ import annotations

from collections.abc import Sequence

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.ingest.kafka import KafkaIngest, accept_kafka
from fraud_lakehouse.ingest.landed import Landed
from fraud_lakehouse.ingest.operator_actions import accept_postgres, forget_slot
from fraud_lakehouse.ingest.postgres import PostgresIngest
from fraud_lakehouse.ingest.resync_run import ResyncReport
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.config import shipped_topic
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import TURN_SECONDS, writer_lock

__all__ = ["KafkaIngest", "Landed", "PostgresIngest", "accept", "forget_postgres_slot", "resync"]


def resync(settings: Settings, lake: Lake, names: Sequence[str]) -> ResyncReport:
    """Bring tables to PostgreSQL's state without a gap (`fraud-lakehouse resync [TABLE…]`), in the writer's turn.

    Args:
        names: bronze names, or `[schema.]table` of the source; none: every captured table.

    Raises:
        SettingsError: no PostgreSQL is set. ConcurrentWriterError: the turn did not come.
        SourceError, GapError, LakeError: as `PostgresIngest.resync`.
    """
    _need_postgres(settings)
    with writer_lock(settings.work_dir, TURN_SECONDS, "postgres"), PostgresIngest(settings, lake) as ingest:
        return ingest.resync(names)


def forget_postgres_slot(settings: Settings, lake: Lake) -> bool:
    """Drop the slot on the server (`fraud-lakehouse forget-slot`), in the writer's turn; whether there was one.

    Raises:
        SettingsError: no PostgreSQL is set. SlotInUseError: a process is reading it. SourceError: it cannot be dropped.
    """
    _need_postgres(settings)
    with writer_lock(settings.work_dir, TURN_SECONDS, "postgres"):
        return forget_slot(settings, lake)


def accept(settings: Settings, lake: Lake, source: str) -> str:
    """Accept a source as it is now (`fraud-lakehouse accept-source NAME`).

    Args:
        source: "postgres", "kafka", or the name of the shipped topic's source.

    Returns:
        the accepted identity.

    Raises:
        SettingsError: there is no such source, or it is not set.
        SourceError: the source cannot be reached.
    """
    if source == "postgres" and settings.postgres_dsn is not None:
        return accept_postgres(settings, lake)
    topic = shipped_topic(settings)
    names = (topic.name, *topic.aliases)
    if source in names and topic.servers:
        return accept_kafka(settings, lake, topic)
    if source == "postgres" or source in names:
        variable = "FRAUD_POSTGRES_DSN" if source == "postgres" else topic.servers_env
        raise SettingsError(f"the source {source!r} is not set", f"set {variable}")
    raise SettingsError(f"there is no source {source!r}", f"name one of: postgres, {topic.name}")


def _need_postgres(settings: Settings) -> None:
    if settings.postgres_dsn is None:
        raise SettingsError("the source 'postgres' is not set", "set FRAUD_POSTGRES_DSN")
