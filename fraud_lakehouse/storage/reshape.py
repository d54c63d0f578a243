"""Schema changes of a table that has rows: add columns, or rewrite them in another type. One durable commit each.

Delta accepts such a commit only as the very next version (`ONLY_NEXT`), so positions read on the handle stay valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from fraud_lakehouse.storage import schemas
from fraud_lakehouse.storage.commit_conflict import is_conflict
from fraud_lakehouse.storage.commit_numbers import commits_of
from fraud_lakehouse.storage.compaction import ONLY_NEXT, only_next
from fraud_lakehouse.storage.lake import data_files, table_root
from fraud_lakehouse.storage.parquet import write_parquet

_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def reshape(handle: DeltaTable, own: schemas.FrameSchema, columns: schemas.FrameSchema, *, rewrite: bool) -> bool:
    """Add columns that the table lacks, and rewrite the table if columns have another type.

    Returns:
        whether the table was changed.

    Args:
        handle: the table; afterwards at the commit's version.
        own: the table's current columns.
        columns: existing or new columns, with the types they should have.
        rewrite: whether existing columns get these types; otherwise they keep their own.

    Raises:
        CommitFailedError: another writer committed since the handle's version; nothing changed.
    """
    missing = {name: kind for name, kind in columns.items() if name not in own}
    if rewrite and any(own[name] != kind for name, kind in columns.items() if name in own):
        root = table_root(handle)
        if "://" in root:
            _overwrite(handle, {**own, **columns})
        else:
            _rewrite(handle, Path(root), {**own, **columns})
    elif missing:
        _add_columns(handle, missing)
    else:
        return False
    return True


def _add_columns(handle: DeltaTable, columns: schemas.FrameSchema) -> None:
    """Add columns; they are null in existing rows."""
    fields = [Field(field.name, field.type, nullable=True) for field in schemas.delta_schema(columns).fields]
    handle.alter.add_columns(fields, commit_properties=ONLY_NEXT, post_commithook_properties=_NO_HOOKS)


def _rewrite(handle: DeltaTable, root: Path, schema: schemas.FrameSchema) -> None:
    """Rewrite every file of a local table with these columns, holding one file in memory at a time.

    Values that the new type cannot represent are null and kept in `_text`. Readers of new rows start over (the commit
    is a rewrite); readers of older versions still find the old files.
    """
    version = handle.version()
    commit = _rewriting(handle)
    added: list[AddAction | RemoveAction] = []
    try:
        for frame in _fitted(handle, schema):
            added.append(write_parquet(root, frame, new_rows=False))
    except BaseException:
        _remove(root, added)
        raise
    try:
        handle.create_write_transaction(
            added,
            "overwrite",
            schemas.delta_schema(schema),
            commit_properties=commit,
            post_commithook_properties=_NO_HOOKS,
        )
    except CommitFailedError as error:
        if is_conflict(error):
            _remove(root, added)
        raise
    handle.load_as_version(version + 1)


def _overwrite(handle: DeltaTable, schema: schemas.FrameSchema) -> None:
    """Rewrite a table on an object store, where delta-rs writes the files."""
    columns = pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    batches = (
        batch
        for frame in _fitted(handle, schema)
        for batch in frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(columns).to_batches()
    )
    write_deltalake(
        handle,
        pa.RecordBatchReader.from_batches(columns, batches),
        mode="overwrite",
        schema_mode="overwrite",
        commit_properties=_rewriting(handle),
        post_commithook_properties=_NO_HOOKS,
    )


def _rewriting(handle: DeltaTable) -> CommitProperties:
    """Properties of a commit that rewrites rows without changing their commit numbers."""
    before = commits_of(handle)
    return only_next(before.after_rewrite().transactions(before))


def _fitted(handle: DeltaTable, schema: schemas.FrameSchema) -> Iterator[pl.DataFrame]:
    """The rows of each file with these columns."""
    before = schemas.frame_schema(handle.schema())
    for path in data_files(handle):
        frame = pl.scan_parquet(path, schema=before, missing_columns="insert", glob=False).collect()
        yield schemas.fit(frame, schema)


def _remove(root: Path, files: Sequence[AddAction | RemoveAction]) -> None:
    for file in files:
        (root / file.path).unlink(missing_ok=True)
