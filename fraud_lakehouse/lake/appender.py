"""One Delta table that rows are appended to: fenced positions, durable commits. Knows no source.

A local append is: Parquet file written and fsynced -> one commit with the rows AND the positions -> commit fsynced.
In this order no power loss can leave a position without its rows; with the commit first it could.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.lake import durable, schemas
from fraud_lakehouse.lake.compaction import ONLY_NEXT, merge_small_files
from fraud_lakehouse.lake.failpoints import failpoint
from fraud_lakehouse.lake.lake import Lake, scan
from fraud_lakehouse.lake.parquet import write_parquet

CHECKPOINT_INTERVAL = 100
SMALL_BYTES = 1024 * 1024
MANY_SMALL = 50
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_REFUSED = ("Concurrent transaction", "changed since last commit", "oncurrent")
_NO_SPACE = ("No space left", "File too large", "Disk quota exceeded")


class Appender:
    """A warm handle on one table, for one thread.

    The positions that `position` gives are those of the handle; `append` commits on the same handle, so a rival's
    commit of one of the same app_ids in between is refused by Delta (the fence).
    """

    def __init__(self, lake: Lake, layer: str, name: str, handle: DeltaTable) -> None:
        self.lake = lake
        self.layer = layer
        self.name = name
        self._handle = handle
        self._schema = schemas.frame_schema(handle.schema())
        # A process killed between commit and fsync leaves its newest commit to be made durable by the next one.
        self._durable = max(handle.version() - 1, -1)
        with lake_errors(lake, layer, name):
            self._sync_log()

    @classmethod
    def open(cls, lake: Lake, layer: str, name: str, schema: schemas.FrameSchema, key: str | None = None) -> Appender:
        """Open the table, or create it with these columns (all nullable).

        Where it is created and `key` is given, that becomes the table property `fraud_lakehouse.key`.

        Raises:
            LakeError: the lake cannot be read or written.
        """
        return cls(lake, layer, name, open_or_create(lake, layer, name, schema, key))

    @property
    def version(self) -> int:
        """The Delta version the handle is at."""
        return self._handle.version()

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """The table's columns."""
        return dict(self._schema)

    @property
    def path(self) -> Path:
        """The table's folder (local lakes)."""
        return Path(self.lake.uri(self.layer, self.name))

    def position(self, app_id: str) -> int | None:
        """The position committed for an app_id, as of this handle; None if it never committed."""
        return self._handle.transaction_version(app_id)

    def refresh(self) -> None:
        """Bring the handle to the newest version."""
        with lake_errors(self.lake, self.layer, self.name):
            before = self._handle.version()
            self._handle.update_incremental()
            if self._handle.version() != before:
                self._schema = schemas.frame_schema(self._handle.schema())

    def read(self) -> pl.DataFrame:
        """The whole table as of this handle (for small control tables)."""
        with lake_errors(self.lake, self.layer, self.name):
            return scan(self._handle).collect()

    def append(self, frame: pl.DataFrame, positions: Mapping[str, int]) -> int:
        """Commit rows and positions together, durably; a frame without rows commits only the positions.

        Columns the table lacks are added to it first (older rows read null); columns the frame lacks are null.

        Returns:
            the Delta version that contains the rows.

        Raises:
            ConcurrentWriterError: another writer moved one of the positions; the handle is refreshed, nothing was
                written, and the caller reads the positions again.
            LakeError: the commit could not be written; nothing may be acknowledged.
        """
        with self._fenced():
            self._add_missing_columns(frame, positions)
            self._commit(schemas.fit(frame, self._schema), positions)
            return self.version

    def replace(self, schema: schemas.FrameSchema) -> None:
        """Empty the table and give it exactly these columns; earlier versions stay readable until vacuumed."""
        with self._fenced():
            empty = pl.DataFrame(schema=schema)
            write_deltalake(
                self._handle,
                empty,
                mode="overwrite",
                schema_mode="overwrite",
                commit_properties=ONLY_NEXT,
                post_commithook_properties=_NO_HOOKS,
            )
            self._schema = schemas.frame_schema(self._handle.schema())
            self._sync_log()

    def set_property(self, name: str, value: str) -> None:
        """Set one table property, if it has another value."""
        if self._handle.metadata().configuration.get(name) == value:
            return
        with self._fenced():
            self._handle.alter.set_table_properties(
                {name: value}, raise_if_not_exists=False, post_commithook_properties=_NO_HOOKS
            )
            self._sync_log()

    def _add_missing_columns(self, frame: pl.DataFrame, positions: Mapping[str, int]) -> None:
        missing = {name: kind for name, kind in frame.schema.items() if name not in self._schema}
        if not missing:
            return
        read = {app_id: self.position(app_id) for app_id in positions}
        nullable = schemas.delta_schema({n: pl.String() if k == pl.Null else k for n, k in missing.items()})
        fields = [Field(field.name, field.type, nullable=True) for field in nullable.fields]
        self._handle.alter.add_columns(fields, post_commithook_properties=_NO_HOOKS)
        self._handle.update_incremental()
        self._schema = schemas.frame_schema(self._handle.schema())
        # The new column's commit moved the handle past the version whose positions the caller read.
        if read != {app_id: self.position(app_id) for app_id in positions}:
            raise CommitFailedError("Concurrent transaction failed")

    def _commit(self, frame: pl.DataFrame, positions: Mapping[str, int]) -> None:
        commit = CommitProperties(app_transactions=[Transaction(app_id, at) for app_id, at in positions.items()])
        if not self.lake.is_local:
            write_deltalake(self._handle, frame, mode="append", commit_properties=commit)
            return
        added: list[AddAction | RemoveAction] = [write_parquet(self.path, frame)] if frame.height else []
        failpoint(f"{self.layer}.after_parquet")
        try:
            self._handle.create_write_transaction(
                added,
                "append",
                self._handle.schema(),
                commit_properties=commit,
                post_commithook_properties=_NO_HOOKS,
            )
        except CommitFailedError as error:
            if _is_refused(error):
                for action in added:
                    (self.path / action.path).unlink(missing_ok=True)
            raise
        failpoint(f"{self.layer}.after_commit")
        self._handle.update_incremental()
        before = self._durable
        self._sync_log()
        if self.version // CHECKPOINT_INTERVAL > before // CHECKPOINT_INTERVAL:
            self._merge_small_files()
            self._handle.create_checkpoint()
            durable.sync_checkpoint(self.path, self.version)
            # A handle grows slower with each commit it has made: 100 to 20 ms at version 400 by opening it anew.
            self._handle = DeltaTable(self.lake.uri(self.layer, self.name))

    def _merge_small_files(self) -> None:
        """Keep a table of many small batches quick to open and to read (a second's rows are some kilobytes)."""
        try:
            merge_small_files(self._handle, self.path, SMALL_BYTES, MANY_SMALL)
        except CommitFailedError as error:
            if not _is_refused(error):
                raise
        self._handle.update_incremental()
        self._sync_log()

    def _sync_log(self) -> None:
        """fsync the log entries up to the handle's version that this writer has not made durable yet."""
        if self.lake.is_local and self._durable < self.version:
            for version in range(self._durable + 1, self.version + 1):
                durable.sync_commit(self.path, version)
            self._durable = self.version

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        """Turn a refused commit into ConcurrentWriterError, with the handle refreshed for the next attempt."""
        try:
            with lake_errors(self.lake, self.layer, self.name):
                yield
        except LakeError:
            self._reopen()
            raise

    def _reopen(self) -> None:
        try:
            self.refresh()
        except LakeError:
            return  # the error that brought us here says what is wrong


def open_or_create(
    lake: Lake, layer: str, name: str, schema: schemas.FrameSchema, key: str | None = None
) -> DeltaTable:
    """A handle on the table's newest version; the table is created, durably, if it is not there.

    A newest log entry torn by a power loss is set aside first (it was never acknowledged).

    Raises:
        LakeError: the lake cannot be read or written.
    """
    with lake_errors(lake, layer, name):
        root = Path(lake.uri(layer, name))
        if lake.is_local:
            durable.set_aside_torn_commit(root)
        if lake.exists(layer, name):
            return DeltaTable(lake.uri(layer, name))
        configuration: dict[str, str | None] = {"delta.checkpointInterval": str(CHECKPOINT_INTERVAL)}
        if key is not None:
            configuration["fraud_lakehouse.key"] = key
        if lake.is_local:
            root.mkdir(parents=True, exist_ok=True)
        handle = DeltaTable.create(
            lake.uri(layer, name),
            schemas.delta_schema(schema),
            mode="ignore",
            configuration=configuration,
            raise_if_key_not_exists=False,
        )
        if lake.is_local:
            durable.sync_new_table(root)
        handle.update_incremental()
        return handle


@contextmanager
def lake_errors(lake: Lake, layer: str, name: str) -> Iterator[None]:
    """Turn what storage and Delta raise into LakeError, naming the table and what to do."""
    table = f"{layer}/{name}"
    try:
        yield
    except CommitFailedError as error:
        if _is_refused(error):
            raise ConcurrentWriterError(
                f"another writer committed to {table} in {lake.root} first ({error})",
                "nothing was written twice; the next cycle reads the positions again and continues",
            ) from error
        raise LakeError(f"{table} in {lake.root} could not be committed: {error}", _fix(str(error))) from error
    except (DeltaError, pl.exceptions.PolarsError, OSError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        code = getattr(error, "errno", None)
        text = f"{error} {errno.errorcode.get(code, '')}" if code else str(error)
        raise LakeError(f"{table} in {lake.root} could not be written or read: {problem}", _fix(text)) from error


def _is_refused(error: CommitFailedError) -> bool:
    """Whether Delta refused the commit for another writer's sake: nothing of it is in the table."""
    text = str(error)
    return any(phrase in text for phrase in _REFUSED) or re.search(r"commit transaction: \d+$", text) is not None


def _fix(text: str) -> str:
    if any(phrase in text for phrase in _NO_SPACE):
        return "free space on the lake's disk; nothing was acknowledged, the same rows are read again"
    return "point FRAUD_LAKE at a folder (or bucket) this user may write; nothing was acknowledged"
