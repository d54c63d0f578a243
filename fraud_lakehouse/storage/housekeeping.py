"""What a writer does for its own local table, so that it stays quick to commit to, to open and to read.

After every twentieth commit a checkpoint, and a new handle from it: a commit reads the log since the checkpoint its
handle was opened at (processor time of a small one: 6 ms after 20, 19 ms after 100, 23 ms after 160). After every
hundredth more: small files are merged in tiers (a row is rewritten about three times until its file is large) and old
log entries are removed. All of it is flushed, and nothing of it changes a row.
Once a day `maintenance.py` does more. A remote table is left to delta-rs, and to that.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.commit_conflict import is_refused
from fraud_lakehouse.storage.compaction import Tier, merge_small_files
from fraud_lakehouse.storage.schemas import COMMIT
from fraud_lakehouse.storage.table_properties import set_properties

CHECKPOINT_INTERVAL = 20
HOUSE_INTERVAL = 100
MEBIBYTE = 1024 * 1024


TIERS = (Tier(0, MEBIBYTE, 32), Tier(MEBIBYTE, 8 * MEBIBYTE, 8))
LOG_MINUTES = 10
"""How long log entries stay. Every open and every commit lists them: 1 ms at 200, 11 ms at 10,000, 170 ms at 86,400 (a
day of one commit a second). So a table with one commit a second has 600 to 700; readers of new rows need none of them.
"""
INDEXED_COLUMNS = 32  # the first columns, of which Delta writers keep statistics unless a table names others


def properties(*, local: bool, columns: int) -> dict[str, str | None]:
    """Properties of a table.

    A local table's checkpoints forget removed files after an hour: a week of them, 86,400 a day at one commit a second,
    makes each checkpoint 6 MB and each open 16 ms slower. Our vacuum does not need them; a foreign one on a local lake
    must be told to keep 168 hours. A remote table is vacuumed by delta-rs, which needs them for that long.

    Args:
        columns: how many the table has. A wide one has statistics of commit numbers alone (commit_numbers.py).
    """
    found: dict[str, str | None] = {
        "delta.checkpointInterval": str(HOUSE_INTERVAL),  # what delta-rs goes by on remote ones
        "delta.logRetentionDuration": f"interval {LOG_MINUTES} minutes",
    }
    if local:
        found["delta.deletedFileRetentionDuration"] = "interval 1 hours"
    if columns > INDEXED_COLUMNS:
        found["delta.dataSkippingStatsColumns"] = COMMIT
    return found


def is_due(before: int, now: int) -> bool:
    """Whether the commits from version `before` to `now` passed one that asks for a checkpoint and a new handle."""
    return _passed(CHECKPOINT_INTERVAL, before, now)


def keep_house(handle: DeltaTable, root: Path, before: int) -> DeltaTable:
    """Checkpoint a local table, and each hundredth time merge files and clean the log.

    Args:
        handle: at the newest version, which is durable; it is moved on.
        before: the version before the commits that made it due.

    Returns:
        a handle opened anew.
    """
    is_hundredth = _passed(HOUSE_INTERVAL, before, handle.version())
    if is_hundredth:
        with suppress(ConcurrentWriterError):
            update_properties(handle, root)
        for tier in TIERS:
            merge_durably(handle, root, tier)
    checkpoint(handle, root)
    if is_hundredth:
        clean_log(handle)
    return DeltaTable(handle.table_uri)


def update_properties(handle: DeltaTable, root: Path) -> None:
    """Give a local table the properties that a new one has; the handle moves on.

    Raises:
        ConcurrentWriterError: another writer committed since the handle's version; nothing changed.
    """
    wanted = properties(local=True, columns=len(handle.schema().fields))
    set_properties(handle, root, {name: value for name, value in wanted.items() if value is not None})


def clean_log(handle: DeltaTable) -> None:
    """Remove the entries of a table that are older than its retention and that a flushed checkpoint stands for.

    delta-rs (1.6.6) removes what lies below the newest checkpoint of which all earlier entries are old enough. A
    process that is killed meanwhile leaves some, for the next time. Entries from a clock that went ahead stay until it
    is past them, and so do those before them.
    """
    failpoint("log.before_clean")
    handle.cleanup_metadata()
    failpoint("log.after_clean")


def _passed(interval: int, before: int, now: int) -> bool:
    return now // interval > max(before, 0) // interval  # a table that has just been made asks for nothing


def merge_durably(handle: DeltaTable, root: Path | None, tier: Tier) -> bool:
    """Merge the files of a tier once and, of a local table, flush the commit.

    Returns:
        whether files were merged; not if there are few, or if another writer's commit came in between.
    """
    before = handle.version()
    try:
        merged = merge_small_files(handle, root, tier)
    except CommitFailedError as error:
        if not is_refused(error):
            raise
        merged = 0
    handle.update_incremental()
    if root is not None:
        for version in range(before + 1, handle.version() + 1):
            durable.sync_commit(root, version)
    return merged > 0


def checkpoint(handle: DeltaTable, root: Path) -> None:
    """Write and flush a checkpoint of the handle's version."""
    failpoint("checkpoint.before_write")
    handle.create_checkpoint()
    failpoint("checkpoint.after_write")
    durable.sync_checkpoint(root, handle.version())
