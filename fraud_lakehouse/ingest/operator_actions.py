"""Operator actions on the PostgreSQL source, recorded in control/audit for the next capture."""

from __future__ import annotations

from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.ingest.postgres_identity import identity_detail
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake


def accept_postgres(lake: Lake, source: PostgresCapture) -> str:
    """Accept another PostgreSQL server as the source: the next step captures it from a new snapshot.

    Bronze tables are then rebuilt (earlier versions stay readable until vacuumed). For a lost slot on the same server,
    use `resync`, which keeps everything.

    Returns:
        the accepted identity, `pg:<system id>:<slot>`.

    Raises:
        SourceError: the source cannot be reached.
    """
    try:
        with source.config.named():
            detail = identity_detail(source)
    finally:
        source.close()
    app_id = str(detail["identity"])
    Audit(lake).record(source.config.name, "accepted", {**detail, "position": Batches(lake).position(app_id)})
    return app_id


def awaited_position(lake: Lake, source: str, app_id: str) -> int | None:
    """The LSN after which the next capture continues from the slot `app_id` (`pg:<system id>:<slot>`).

    None if nothing was ingested through it, or an operator gave up its position: the slot may then be missing.
    """
    if not lake.exists("control", "batches"):
        return None
    position = lake.open("control", "batches").transaction_version(app_id)
    if position is None or not lake.exists("control", "audit"):
        return position
    return None if Audit(lake).order(source, app_id, position) else position


def forget_slot(lake: Lake, source: PostgresCapture) -> bool:
    """Drop the slot on the server, so that it retains no log; the lake keeps everything it has.

    The next capture begins with a resync into a new slot. The caller holds the writer's lock.

    Returns:
        whether the slot existed.

    Raises:
        SlotInUseError: a process is reading it. SourceError: it is another database's, or cannot be dropped.
    """
    try:
        with source.config.named():
            existed, app_id = source.slot_exists(), source.app_id
            source.drop_slot()
    finally:
        source.close()
    position = Batches(lake).position(app_id) if lake.exists("control", "batches") else None
    if position is not None:
        detail = {"identity": app_id, "scope": "", "position": position}
        Audit(lake).record(source.config.name, "slot_forgotten", detail)
    return existed
