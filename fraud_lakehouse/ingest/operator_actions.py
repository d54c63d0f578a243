"""What an operator says about the PostgreSQL source, kept in control/audit: the next capture begins accordingly."""

from __future__ import annotations

from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.ingest.postgres_identity import identity_detail
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake


def accept_postgres(lake: Lake, source: PostgresCapture) -> str:
    """Accept another PostgreSQL server as the source: the next step captures it from a new snapshot.

    Bronze tables are then rebuilt (earlier versions stay readable until vacuumed). On the same server, `resync` mends
    a lost slot and keeps everything.

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
    """The LSN after which the next capture reads on from the slot `app_id` (`pg:<system id>:<slot>`).

    None where nothing was landed through it, or an operator gave its position up: then it may be missing.
    """
    if not lake.exists("control", "batches"):
        return None
    position = lake.open("control", "batches").transaction_version(app_id)
    if position is None or not lake.exists("control", "audit"):
        return position
    return None if Audit(lake).order(source, app_id, position) else position


def forget_slot(lake: Lake, source: PostgresCapture) -> bool:
    """Drop the slot on the server, so that it keeps no more log; the lake keeps everything it has.

    The next capture begins with a resync into a new slot. The caller holds the writer's turn.

    Returns:
        whether there was a slot.

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
