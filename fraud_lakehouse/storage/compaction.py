"""Merging small files of a table into one durable Parquet file with the same rows, in one commit.

The file is written and fsynced before the commit that removes the small ones. So a power loss cannot leave rows only in
a file that never reached the disk. (delta-rs' own compaction does not fsync, and writes view types, which not every
reader supports.) The small files stay for readers of older versions until a vacuum. The commit is marked as changing no
data, so readers of new rows see none.

delta-rs (1.6.6) accepts two commits that remove the same files, its own compaction included, and so doubles rows.
Therefore a rewrite must be the very next version after the one it read (`ONLY_NEXT`): that is the fence.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.transaction import AddAction, RemoveAction

from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.lake import file_path, scan_files
from fraud_lakehouse.storage.parquet import upload_parquet, write_parquet

MERGED_BYTES = 64 * 1024 * 1024
"""Approximate size of a merged file; in memory it needs about ten times that."""


ONLY_NEXT = CommitProperties(max_commit_retries=0)
"""Reject the commit if another writer committed since the handle's version."""


def only_next(transactions: Sequence[Transaction]) -> CommitProperties:
    """`ONLY_NEXT` for a commit with app transactions."""
    return CommitProperties(app_transactions=list(transactions), max_commit_retries=0)


@dataclass(frozen=True)
class Tier:
    """Files of at least `least` and less than `most` bytes are merged when there are `many` of them."""

    least: int
    most: int
    many: int


def merge_small_files(handle: DeltaTable, root: Path | None, tier: Tier) -> int:
    """Merge the files of a tier if there are enough of them, oldest first.

    Args:
        handle: the table; stays at its version (update it afterwards).
        root: the folder of a local table, None on an object store.
        tier: which files to merge.

    Returns:
        number of files replaced; each commit replaces about 64 MB at most.

    Raises:
        CommitFailedError: another writer committed first; nothing changed.
    """
    actions = pl.DataFrame(handle.get_add_actions(flatten=True)).select("path", "size_bytes", "modification_time")
    small = actions.filter(pl.col("size_bytes").is_between(tier.least, tier.most, closed="left"))
    chosen = small.sort("modification_time").filter(pl.col("size_bytes").cum_sum() <= max(MERGED_BYTES, tier.most))
    if small.height < tier.many or chosen.height < 2:
        return 0
    merged = scan_files(handle, [file_path(handle, path) for path in chosen["path"]]).collect()
    if root is None:
        added = upload_parquet(handle, merged, new_rows=False)
    else:
        added = write_parquet(root, merged, new_rows=False)
    now = time.time_ns() // 1_000_000
    removed = [
        RemoveAction(path=name, data_change=False, deletion_timestamp=now, size=size, partition_values={})
        for name, size in chosen.select("path", "size_bytes").iter_rows()
    ]
    actions_of_commit: list[AddAction | RemoveAction] = [added, *removed]
    failpoint("compaction.before_commit")
    handle.create_write_transaction(
        actions_of_commit,
        "append",
        handle.schema(),
        commit_properties=ONLY_NEXT,
        post_commithook_properties=PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False),
    )
    failpoint("compaction.after_commit")
    if root is not None:
        durable.mark_removed(file_path(handle, path) for path in chosen["path"])
    return len(removed)
