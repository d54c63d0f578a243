"""Write a model's result as one Delta commit: append, overwrite or merge, with its reading positions.

The commit is based on the table version that the plan was made with. If another process has built the same model
meanwhile, deltalake reports a commit conflict and the model fails; it is built again from the new state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Schema,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.storage import commit_numbers, housekeeping, schemas
from fraud_lakehouse.storage.commit_conflict import is_conflict
from fraud_lakehouse.storage.commit_numbers import Commits
from fraud_lakehouse.storage.compaction import only_next
from fraud_lakehouse.storage.durable import check_not_left_behind, mark_removed, sync_versions
from fraud_lakehouse.storage.lake import data_files, file_path, table_root
from fraud_lakehouse.storage.parquet import upload_parquet, write_parquet
from fraud_lakehouse.storage.reshape import reshape
from fraud_lakehouse.storage.schemas import COMMIT
from fraud_lakehouse.transform import merged

if TYPE_CHECKING:
    from fraud_lakehouse.storage.lake import Lake
    from fraud_lakehouse.transform.consumption import Plan

DELETE = "_delete"  # merge: a row with this set removes its key
IS_NEW = "_is_new"  # merge: a row with this set has a key that the target is known to lack
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_NUMBER = pa.field(COMMIT, pa.int64())
ROW_GROUP_ROWS = 131_072


@dataclass(frozen=True)
class Commit:
    """What one build wrote: the number of rows, the table's current version, the strategy."""

    rows: int
    version: int
    strategy: str


def append(lake: Lake, plan: Plan, reader: pa.RecordBatchReader) -> Commit | None:
    """Add the rows; None if there are none and the table exists (no commit is needed)."""
    rows = _Counted(reader)
    if plan.target is not None and rows.is_empty:
        return None
    return _write(lake, plan, rows, "append")


def overwrite(lake: Lake, plan: Plan, reader: pa.RecordBatchReader) -> Commit:
    """Replace the whole content; the schema may change."""
    return _write(lake, plan, _Counted(reader), "overwrite")


def _write(lake: Lake | None, plan: Plan, rows: _Counted, mode: Literal["append", "overwrite"]) -> Commit:
    """Write the rows into the table, or into a new one of the lake, whose first version has them."""
    target = plan.target
    rewrites = mode == "overwrite" and target is not None
    before = target.version() if target is not None else -1
    removed = data_files(target) if rewrites and target is not None else []
    commits = plan.after(rewrites=rewrites)
    if plan.numbered:
        rows.number(commits.newest)
    if target is None:
        assert lake is not None
        _create(lake, plan, rows, commits)
        plan.target = target = lake.open(*plan.consumer)
    else:
        _commit(plan, target, rows, mode, commits)
    return _done(plan, target, before, rows.rows, mode, commits, removed)


def merge(plan: Plan, rows: pa.Table, key: list[str]) -> Commit | None:
    """Upsert by key (null equals null); rows marked `_delete` delete theirs. None if there is nothing to do."""
    target = plan.target
    assert target is not None, "merge needs a target; a first build appends"
    if rows.num_rows == 0:
        return None
    stored = [name for name in rows.column_names if name not in (DELETE, IS_NEW)]
    if _all_true(rows, IS_NEW):
        return _write(None, plan, _Counted(rows.select(stored).to_reader()), "append")
    before, commits = target.version(), plan.after(rewrites=True)
    if plan.numbered:
        rows = rows.append_column(_NUMBER, pa.repeat(pa.scalar(commits.newest, pa.int64()), rows.num_rows))
        stored.append(COMMIT)
    _add_columns(plan, target, rows.select(stored).schema)
    write = partial(upload_parquet, target) if (root := _local(target)) is None else partial(write_parquet, root)
    written: list[AddAction | RemoveAction] = []
    try:
        written.extend(merged.rewrite(target, merged.Change.of(target, rows, key, DELETE), write))
        with _committing(plan):
            # delta-rs (1.6.6) accepts two commits that remove the same file: only the very next version is safe.
            target.create_write_transaction(
                written,
                "append",
                target.schema(),
                commit_properties=only_next(plan.transactions(commits)),
                post_commithook_properties=_hooks(target),
            )
    except ConcurrentWriterError:
        for action in written:
            if root is not None and isinstance(action, AddAction):
                (root / action.path).unlink(missing_ok=True)
        raise
    target.update_incremental()
    removed = [file_path(target, action.path) for action in written if isinstance(action, RemoveAction)]
    return _done(plan, target, before, rows.num_rows, "merge", commits, removed)


def _add_columns(plan: Plan, target: DeltaTable, wanted: pa.Schema) -> None:
    """Add the columns that the table lacks in a separate commit; they are null in existing rows."""
    own = schemas.frame_schema(target.schema())
    new = pa.schema([_delta_field(field) for field in wanted if field.name not in own])
    if new.names:
        with _committing(plan):
            reshape(target, own, schemas.frame_schema(Schema.from_arrow(new)), rewrite=False)


def progress(plan: Plan) -> None:
    """Commit reading positions alone, so that a restart need not read rows without a result again."""
    assert plan.target is not None
    before = plan.target.version()
    nothing = pa.RecordBatchReader.from_batches(pa.schema(plan.target.schema().to_arrow()), [])
    _commit(plan, plan.target, _Counted(nothing), "append", None)
    _done(plan, plan.target, before, 0, "append", None)


def _create(lake: Lake, plan: Plan, data: _Counted, commits: Commits) -> None:
    with _committing(plan):
        write_deltalake(
            lake.uri(*plan.consumer),
            data.reader(),
            mode="error",
            configuration=housekeeping.properties(local=lake.is_local, columns=len(data.schema)),
            commit_properties=CommitProperties(app_transactions=plan.transactions(commits), max_commit_retries=0),
            post_commithook_properties=_NO_HOOKS,
            writer_properties=_parquet(data.first),
        )


def _commit(
    plan: Plan, target: DeltaTable, data: _Counted, mode: Literal["append", "overwrite"], commits: Commits | None
) -> None:
    # An overwrite rebased over a compaction keeps the compacted rows (deltalake 1.6.6): never rebase it.
    retries = None if mode == "append" else 0
    transactions = plan.transactions(commits)
    with _committing(plan):
        write_deltalake(
            target,
            data.reader(),
            mode=mode,
            schema_mode="merge" if mode == "append" else "overwrite",
            commit_properties=CommitProperties(app_transactions=transactions, max_commit_retries=retries),
            post_commithook_properties=_hooks(target),
            writer_properties=_parquet(data.first),
        )


@contextmanager
def _committing(plan: Plan) -> Iterator[None]:
    """Wraps a model's commit: a conflict with another process's commit becomes ConcurrentWriterError."""
    failpoint(f"model.{plan.consumer[1]}.before_commit")
    with conflicts(plan):
        yield
    failpoint(f"model.{plan.consumer[1]}.after_commit")


@contextmanager
def conflicts(plan: Plan) -> Iterator[None]:
    """Convert deltalake's commit conflicts to ConcurrentWriterError."""
    try:
        yield
    except (DeltaError, OSError) as error:
        if not (isinstance(error, CommitFailedError) or is_conflict(error)):
            raise
        raise _conflict(plan, error) from error


def _parquet(first: pa.RecordBatch | None) -> WriterProperties:
    """Parquet options, chosen from the first rows: only strings that repeat get a dictionary.

    For unique ids, means and counts, dictionaries took a third to a half of the writing time.
    """
    repeating = [] if first is None else [name for name in first.schema.names if _repeats(first.column(name))]
    with_dictionary = ColumnProperties(dictionary_enabled=True)
    return WriterProperties(
        compression="SNAPPY",
        max_row_group_size=ROW_GROUP_ROWS,
        default_column_properties=ColumnProperties(dictionary_enabled=False),
        column_properties=dict.fromkeys(repeating, with_dictionary),
    )


def _repeats(values: pa.Array) -> bool:
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return False
    return 2 * int(pc.count_distinct(values).as_py()) <= len(values)


def _done(
    plan: Plan,
    target: DeltaTable,
    before: int,
    rows: int,
    strategy: str,
    commits: Commits | None,
    removed: Sequence[str] = (),
) -> Commit:
    if before >= 0 and (root := _local(target)) is not None:
        check_not_left_behind(root, before)
    if commits is not None and target.version() == before + 1:
        commit_numbers.remember(target, commits)
    _sync(target, before)
    failpoint(f"model.{plan.consumer[1]}.after_fsync")
    root = _local(target)
    if root is not None:
        mark_removed(removed)
    if root is not None and housekeeping.is_due(before, target.version()):
        housekeeping.maintain_log(target, root, before)
    return Commit(rows, target.version(), strategy)


def _sync(target: DeltaTable, before: int) -> None:
    """Make the new versions durable; delta-rs never calls fsync on a local lake."""
    if (root := _local(target)) is not None:
        sync_versions(root, before + 1, target.version())


def _local(target: DeltaTable) -> Path | None:
    """The folder of a local table; None for a remote one."""
    root = table_root(target)
    return None if "://" in root else Path(root)


def _hooks(target: DeltaTable) -> PostCommitHookProperties | None:
    """We write checkpoints of a local table (`maintain_log` flushes them); delta-rs writes those of a remote one."""
    return None if _local(target) is None else _NO_HOOKS


def _conflict(plan: Plan, error: Exception) -> ConcurrentWriterError:
    return ConcurrentWriterError(
        f"{plan.consumer[0]}/{plan.consumer[1]} was built by another process at the same time: {error}",
        "nothing is lost: the next cycle builds it from the new state",
    )


def _all_true(rows: pa.Table, column: str) -> bool:
    return column in rows.column_names and all(rows.column(column).to_pylist())


class _Counted:
    """A reader that shows whether it is empty before it is read, and counts its rows."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self.schema = pa.schema([_delta_field(field) for field in reader.schema])
        self.rows = 0
        self._number: int | None = None
        self._batches = self._count(reader)
        self.first = next(self._batches, None)

    def number(self, commit: int) -> None:
        """Add the commit's number to the rows; once, before they are read."""
        self._number = commit
        self.schema = self.schema.append(_NUMBER)

    @property
    def is_empty(self) -> bool:
        return self.first is None

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.schema, self._chain())

    def _chain(self) -> Iterator[pa.RecordBatch]:
        for batch in chain([self.first] if self.first is not None else [], self._batches):
            if self._number is not None:
                numbers = pa.repeat(pa.scalar(self._number, pa.int64()), batch.num_rows)
                yield pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=self.schema)
            else:
                yield batch

    def _count(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        schema = self.schema
        for batch in reader:
            if batch.num_rows:
                self.rows += batch.num_rows
                yield batch.cast(schema)


def _delta_field(field: pa.Field) -> pa.Field:
    """The field as Delta stores it: nullable, microseconds, UTC spelt "UTC"."""
    kind = field.type
    if pa.types.is_timestamp(kind):
        kind = pa.timestamp("us", tz="UTC" if kind.tz else None)
    return pa.field(field.name, kind, nullable=True)
