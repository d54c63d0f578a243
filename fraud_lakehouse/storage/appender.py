"""One Delta table to which rows are appended: fenced positions, durable commits. Knows no source.

A local append is: Parquet files written and fsynced -> one commit with the rows AND the positions -> commit fsynced.
In this order a power loss cannot leave a position without its rows; with the commit first it could.

Rows get the number of their commit in the column `_commit` (commit_numbers.py). It depends on no clock, compaction or
change of process: sorted by it, rows are in commit order. A table that lacks the column gets it with the next rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction, write_deltalake
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.storage import commit_numbers, durable, housekeeping, reshape, schemas, table_properties
from fraud_lakehouse.storage.commit_conflict import is_conflict
from fraud_lakehouse.storage.compaction import only_next
from fraud_lakehouse.storage.errors import lake_errors
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.storage.staging import Staging

_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


class Appender:
    """An open handle on one table, for one thread.

    `position` returns positions as of the handle, and `append` commits on the same handle. So Delta rejects the commit
    if another writer has committed one of the same app_ids in between (the fence).
    """

    def __init__(self, lake: Lake, layer: str, name: str, handle: DeltaTable, *, numbered: bool = True) -> None:
        self._is_numbered = numbered
        self._number: int | None = None  # of the rows staged
        self.lake = lake
        self.layer = layer
        self.name = name
        self._handle = handle
        self._schema = schemas.frame_schema(handle.schema())
        self._positions: dict[str, int | None] = {}  # those read at version `_positions_at`
        self._positions_at = handle.version()
        self._staging = Staging(self.path if lake.is_local else None)
        # A process killed between commit and fsync leaves its newest commit for the next one to make durable.
        self._durable = max(handle.version() - 1, -1)
        with lake_errors(lake, layer, name):
            self._sync_log()

    @classmethod
    def open(
        cls,
        lake: Lake,
        layer: str,
        name: str,
        schema: schemas.FrameSchema,
        properties: Mapping[str, str] | None = None,
        *,
        numbered: bool = True,
    ) -> Appender:
        """Open the table, or create it with these columns (all nullable) and table properties.

        Args:
            properties: for a table that is created.
            numbered: whether rows get `_commit`. Writers that number their rows conflict with each other.

        Raises:
            LakeError: the lake cannot be read or written.
        """
        columns = _with_number(schema) if numbered else schema
        return cls(lake, layer, name, open_or_create(lake, layer, name, columns, properties), numbered=numbered)

    @property
    def version(self) -> int:
        """The Delta version of the handle."""
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
        """The position committed for an app_id, as of this handle; None if it never committed.

        Raises:
            ConcurrentWriterError: the handle is so old that the log no longer has its entries. It is refreshed.
        """
        if self._positions_at != self.version:
            self._positions, self._positions_at = {}, self.version
        if app_id not in self._positions:  # the handle searches the log at each call: 0.2 ms
            with self._fenced():
                self._positions[app_id] = self._handle.transaction_version(app_id)
        return self._positions[app_id]

    @property
    def newest_commit(self) -> int:
        """Number of the newest commit with rows, as of this handle; 0 if no commit is numbered."""
        found = self.position(commit_numbers.COMMITS)
        return commit_numbers.newest(self._handle) if found is None else found

    def refresh(self) -> None:
        """Update the handle to the newest version.

        Raises:
            LakeError: the lake cannot be read.
        """
        before = self._handle.version()
        try:
            with self._fenced():
                self._handle.update_incremental()
        except ConcurrentWriterError:
            return  # its entries are gone from the log: the table was reopened
        if self._handle.version() != before:
            self._schema = schemas.frame_schema(self._handle.schema())

    def read(self) -> pl.DataFrame:
        """The whole table as of this handle (for small control tables)."""
        with lake_errors(self.lake, self.layer, self.name):
            return scan(self._handle).collect()

    def append(self, frame: pl.DataFrame, positions: Mapping[str, int]) -> int:
        """Commit rows and positions together, durably; a frame without rows commits only the positions.

        Columns that the table lacks are added first (null in older rows); columns that the frame lacks are null.

        Returns:
            the Delta version that contains the rows.

        Raises:
            ConcurrentWriterError: another writer moved one of the positions; the handle is refreshed, nothing was
                written, and the caller reads the positions again.
            LakeError: the commit could not be written; nothing may be acknowledged.
        """
        self.stage(frame)
        return self.commit(positions)

    def stage(self, frame: pl.DataFrame) -> None:
        """Write rows durably for the next `commit`, invisible to readers; does nothing for a frame without rows.

        Columns that the table lacks are added first (null in older rows); columns that the frame lacks are null.

        Raises:
            ConcurrentWriterError: a column had to be added, and another writer committed since the handle's version.
            LakeError: the rows could not be written; rows staged before are still there.
        """
        number = self._next_number if self._is_numbered else None
        if number is not None:
            frame = frame.with_columns(pl.lit(number, dtype=pl.Int64).alias(schemas.COMMIT))
        own = self._schema
        missing = {
            name: pl.String() if kind == pl.Null else kind for name, kind in frame.schema.items() if name not in own
        }
        self.reshape(missing, rewrite=False)
        if frame.is_empty():
            return
        with self._fenced():
            failpoint(f"{self.layer}.before_parquet")
            self._staging.add(schemas.fit(frame, self._schema))
            self._number = number
            failpoint(f"{self.layer}.after_parquet")

    def commit(self, positions: Mapping[str, int]) -> int:
        """Commit all staged rows and the positions they reach, together and durably.

        Returns:
            the Delta version that contains them.

        Raises:
            ConcurrentWriterError: another writer moved one of the positions; the handle is refreshed, the staged rows
                are gone, and the caller reads the positions again.
            LakeError: the commit could not be written; nothing may be acknowledged, the staged rows are not kept.
        """
        with self._fenced():
            self._commit(positions)
            return self.version

    def discard(self) -> None:
        """Discard what was staged since the last commit."""
        self._number = None
        self._staging.discard()

    def replace(self, schema: schemas.FrameSchema) -> None:
        """Empty the table and give it these columns and `_commit`; earlier versions stay readable until vacuumed."""
        with self._fenced():
            before = commit_numbers.commits_of(self._handle)
            write_deltalake(
                self._handle,
                pl.DataFrame(schema=_with_number(schema)),
                mode="overwrite",
                schema_mode="overwrite",
                commit_properties=only_next(before.after_rewrite().transactions(before)),
                post_commithook_properties=_NO_HOOKS,
            )
            self._schema = schemas.frame_schema(self._handle.schema())
            self._sync_log()

    @property
    def properties(self) -> dict[str, str]:
        """The table's properties, as of this handle."""
        return {name: value for name, value in self._handle.metadata().configuration.items() if value is not None}

    def set_properties(self, values: Mapping[str, str]) -> None:
        """Set table properties in one commit, unless they have these values.

        Raises:
            ConcurrentWriterError: another writer committed since the handle's version; nothing changed.
        """
        with self._fenced():
            if table_properties.set_properties(self._handle, self.path if self.lake.is_local else None, values):
                self._sync_log()

    def reshape(self, columns: schemas.FrameSchema, *, rewrite: bool) -> bool:
        """Add the columns that the table lacks; with `rewrite`, change the type of existing ones.

        Returns:
            whether the table was changed.

        Raises:
            ConcurrentWriterError: another writer committed since the handle's version; nothing changed.
        """
        with self._fenced():
            if not reshape.reshape(self._handle, self._schema, columns, rewrite=rewrite):
                return False
            self._schema = schemas.frame_schema(self._handle.schema())
            self._sync_log()
        return True

    @property
    def _next_number(self) -> int:
        """Number of the next commit, as of the handle; frames staged for one commit share it."""
        return self._number or self.newest_commit + 1

    def _commit(self, positions: Mapping[str, int]) -> None:
        number, self._number = self._number, None
        if number is not None and number != self._next_number:  # the handle was refreshed past another writer's commit
            self._staging.discard()
            raise ConcurrentWriterError(
                f"another writer committed to {self.layer}/{self.name} after rows were staged",
                "nothing was committed; read the positions and stage the rows again",
            )
        versions = dict(positions) if number is None else {**positions, commit_numbers.COMMITS: number}
        commit = CommitProperties(app_transactions=[Transaction(app_id, at) for app_id, at in versions.items()])
        failpoint(f"{self.layer}.before_commit")
        if self.lake.is_local:
            self._commit_files(commit)
        else:
            frame = self._staging.take_frames(pl.Schema(self._schema))
            rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())  # not every reader supports view types
            write_deltalake(self._handle, rows, mode="append", commit_properties=commit)
        failpoint(f"{self.layer}.after_commit")
        if not self.lake.is_local:
            return
        self._handle.update_incremental()
        before = self._durable
        self._sync_log()
        failpoint(f"{self.layer}.after_fsync")
        if housekeeping.is_due(before, self.version):
            self._handle = housekeeping.maintain_log(self._handle, self.path, before)
            self._durable = self.version

    def _commit_files(self, commit: CommitProperties) -> None:
        """Commit the staged files of a local table."""
        staged, before = self._staging.take_files(), self.version
        added: list[AddAction | RemoveAction] = [*staged]
        try:
            self._handle.create_write_transaction(
                added,
                "append",
                self._handle.schema(),
                commit_properties=commit,
                post_commithook_properties=_NO_HOOKS,
            )
        except DeltaError as error:
            if is_conflict(error):
                self._staging.remove(staged)
            raise
        durable.check_not_left_behind(self.path, before)

    def _sync_log(self) -> None:
        """fsync the log entries up to the handle's version that this writer has not yet made durable."""
        if self.lake.is_local and self._durable < self.version:
            for version in range(self._durable + 1, self.version + 1):
                durable.sync_commit(self.path, version)
            self._durable = self.version

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        """Raise a commit conflict as ConcurrentWriterError, and reopen the table for the next attempt."""
        before = self._handle.version()
        try:
            with lake_errors(self.lake, self.layer, self.name):
                yield
        except LakeError as error:
            self._reopen()
            error.add_note(f"the handle was at version {before}, the table is at {self._handle.version()}")
            raise

    def _reopen(self) -> None:
        """Reopen the table: the log may no longer have what the handle was opened from."""
        with suppress(DeltaError, OSError):  # the error being handled describes the problem
            self._handle = DeltaTable(self._handle.table_uri)
            self._schema = schemas.frame_schema(self._handle.schema())


def open_or_create(
    lake: Lake, layer: str, name: str, schema: schemas.FrameSchema, properties: Mapping[str, str] | None = None
) -> DeltaTable:
    """A handle at the table's newest version; the table is created, durably, if it does not exist.

    A newest log entry torn by a power loss is moved out of the log first (it was never acknowledged).

    Raises:
        LakeError: the lake cannot be read or written.
    """
    with lake_errors(lake, layer, name):
        root = Path(lake.uri(layer, name))
        if lake.is_local:
            durable.set_aside_torn_commit(root)
        if lake.exists(layer, name):
            return DeltaTable(lake.uri(layer, name))
        configuration = {**housekeeping.properties(local=lake.is_local, columns=len(schema)), **(properties or {})}
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
            durable.sync_new_folder(root)  # its first log entry is flushed like any other, by Appender
        handle.update_incremental()
        return handle


def _with_number(schema: schemas.FrameSchema) -> schemas.FrameSchema:
    return {**schema, schemas.COMMIT: schema.get(schemas.COMMIT, pl.Int64())}
