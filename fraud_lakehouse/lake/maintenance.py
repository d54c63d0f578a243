"""Upkeep of Delta tables: compact small files, checkpoint, clean the log, vacuum. Run by the writer itself.

Never changes a row. Vacuum keeps everything of the last 168 hours, so that readers of older versions and time travel
within a week are safe; only a table's own unreferenced files are removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deltalake import DeltaTable, PostCommitHookProperties
from deltalake.exceptions import CommitFailedError

from fraud_lakehouse.lake import durable
from fraud_lakehouse.lake.appender import lake_errors
from fraud_lakehouse.lake.compaction import merge_small_files
from fraud_lakehouse.lake.lake import LAYERS, Lake

LEAST_RETENTION_HOURS = 168
FEW_FILES = 8
SMALL_BYTES = 32 * 1024 * 1024
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True)
class Upkeep:
    """What upkeep did to one table; sizes in bytes of the files of the newest version."""

    layer: str
    table: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    files_vacuumed: int
    version: int


def maintain(
    lake: Lake, layers: tuple[str, ...] = LAYERS, retention_hours: int = LEAST_RETENTION_HOURS
) -> list[Upkeep]:
    """Do the upkeep of every table of these layers, one after the other.

    Args:
        lake: the lake (a local one: a remote one's tables are not listed).
        layers: folders of the lake.
        retention_hours: age from which unreferenced files are deleted, at least 168.

    Raises:
        ValueError: retention under 168 hours.
        LakeError: a table could not be read or written; tables before it are done.
    """
    return [maintain_table(lake, layer, name, retention_hours) for layer in layers for name in lake.tables(layer)]


def maintain_table(lake: Lake, layer: str, name: str, retention_hours: int = LEAST_RETENTION_HOURS) -> Upkeep:
    """Compact (if it has more than 8 files), checkpoint, clean the expired log, vacuum one table."""
    if retention_hours < LEAST_RETENTION_HOURS:
        raise ValueError(f"vacuum keeps at least {LEAST_RETENTION_HOURS} hours, not {retention_hours}")
    with lake_errors(lake, layer, name):
        handle = lake.open(layer, name)
        files_before, bytes_before = _size(handle)
        if files_before > FEW_FILES:
            _compact(lake, handle, Path(lake.uri(layer, name)))
        handle.create_checkpoint()
        handle.cleanup_metadata()
        # full: also files that no commit names, such as those of a process killed between Parquet and commit.
        removed = handle.vacuum(retention_hours, dry_run=False, full=True)
        handle.update_incremental()
        files_after, bytes_after = _size(handle)
    return Upkeep(layer, name, files_before, files_after, bytes_before, bytes_after, len(removed), handle.version())


def _compact(lake: Lake, handle: DeltaTable, root: Path) -> None:
    """Merge files under 32 MB, 64 MB at a time. Another writer's commit in between ends it until the next upkeep."""
    if not lake.is_local:
        handle.optimize.compact(post_commithook_properties=_NO_HOOKS)
        return
    before = handle.version()
    try:
        while merge_small_files(handle, root, SMALL_BYTES, 2):
            handle.update_incremental()
    except CommitFailedError:
        handle.update_incremental()
    for version in range(before + 1, handle.version() + 1):
        durable.sync_commit(root, version)


def _size(handle: DeltaTable) -> tuple[int, int]:
    """Number of files and bytes of the handle's version."""
    sizes = handle.get_add_actions(flatten=True).column("size_bytes").to_pylist()
    return len(sizes), sum(sizes)
