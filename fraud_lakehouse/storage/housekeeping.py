"""Maintenance that a writer does for its own local table, so that commits, opens and reads stay fast.

After every 20th commit it writes a checkpoint and opens a new handle from it. A commit reads the log since the
checkpoint from which its handle was opened: a small one takes 6 ms of processor time after 20 commits, 19 ms after 100,
23 ms after 160. After every 100th commit it also removes old log entries and merges small files in tiers: a row is
rewritten about three times until its file is large. Everything is flushed, and no row changes.
`maintenance.py` does more once a day. For a remote table, delta-rs and `maintenance.py` do all of it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.commit_conflict import is_conflict
from fraud_lakehouse.storage.compaction import Tier, merge_small_files
from fraud_lakehouse.storage.schemas import COMMIT
from fraud_lakehouse.storage.table_properties import set_properties

CHECKPOINT_INTERVAL = 20
HOUSE_INTERVAL = 100
MEBIBYTE = 1024 * 1024


TIERS = (Tier(0, MEBIBYTE, 32), Tier(MEBIBYTE, 8 * MEBIBYTE, 8))
LOG_MINUTES = 10
"""Retention of log entries. Every open and every commit lists them: 1 ms for 200, 11 ms for 10,000, 170 ms for 86,400
(a day at one commit a second). At that rate a table has 600 to 700. Readers of new rows need none of them.
"""
INDEXED_COLUMNS = 32  # Delta writers keep statistics of the first 32 columns unless a table names others


def properties(*, local: bool, columns: int) -> dict[str, str | None]:
    """Properties of a table.

    Checkpoints of a local table forget removed files after an hour. A week of them (86,400 a day at one commit a
    second) would make each checkpoint 6 MB and each open 16 ms slower. Our vacuum does not need them; another program
    that vacuums a local lake must be configured to keep 168 hours. delta-rs vacuums remote tables and needs them.

    Args:
        columns: number of the table's columns. A wide table has statistics of commit numbers only (commit_numbers.py).
    """
    found: dict[str, str | None] = {
        "delta.checkpointInterval": str(HOUSE_INTERVAL),  # delta-rs follows it for remote tables
        "delta.logRetentionDuration": f"interval {LOG_MINUTES} minutes",
    }
    if local:
        found["delta.deletedFileRetentionDuration"] = "interval 1 hours"
    if columns > INDEXED_COLUMNS:
        found["delta.dataSkippingStatsColumns"] = COMMIT
    return found


def is_due(before: int, now: int) -> bool:
    """Whether a checkpoint and a new handle became due between version `before` and `now`."""
    return _passed(CHECKPOINT_INTERVAL, before, now)


def maintain_log(handle: DeltaTable, root: Path, before: int) -> DeltaTable:
    """Checkpoint a local table; every 100th commit, also merge files and clean the log.

    Args:
        handle: at the newest version, which is durable; its version advances.
        before: the version before the commits that made maintenance due.

    Returns:
        a newly opened handle.
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
    """Give a local table the properties of a new one; the handle's version advances.

    Raises:
        ConcurrentWriterError: another writer committed since the handle's version; nothing changed.
    """
    wanted = properties(local=True, columns=len(handle.schema().fields))
    set_properties(handle, root, {name: value for name, value in wanted.items() if value is not None})


def clean_log(handle: DeltaTable) -> None:
    """Remove log entries that are older than the table's retention and covered by a flushed checkpoint.

    delta-rs (1.6.6) removes what lies below the newest checkpoint of which all earlier entries are old enough. A
    process killed meanwhile leaves some for the next call. Entries with a timestamp in the future stay until that time
    has passed, and so do all earlier ones.
    """
    failpoint("log.before_clean")
    handle.cleanup_metadata()
    failpoint("log.after_clean")


def _passed(interval: int, before: int, now: int) -> bool:
    return now // interval > max(before, 0) // interval  # nothing is due for a table that was just created


def merge_durably(handle: DeltaTable, root: Path | None, tier: Tier) -> bool:
    """Merge the files of a tier once; flush the commit of a local table.

    Returns:
        whether files were merged: not if there are few, or if another writer committed meanwhile.
    """
    before = handle.version()
    try:
        merged = merge_small_files(handle, root, tier)
    except CommitFailedError as error:
        if not is_conflict(error):
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
