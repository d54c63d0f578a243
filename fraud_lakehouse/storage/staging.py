"""Rows of one table that are written but not committed: no reader sees them before the commit that names the files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from deltalake.transaction import AddAction

from fraud_lakehouse.storage.parquet import write_parquet


class Staging:
    """Frames on their way into a table, each of exactly the table's columns at that time.

    Of a local table each is a durable Parquet file at once; a process that dies leaves it to vacuum. On an object
    store the frames wait in memory, since delta-rs writes files and commit in one go there.

    Args:
        root: the folder of a local table, None on an object store.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._files: list[AddAction] = []
        self._frames: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame) -> None:
        """Take a frame.

        Raises:
            OSError, polars.exceptions.PolarsError: it could not be written; nothing is left of it.
        """
        if self._root is None:
            self._frames.append(frame)
        else:
            self._files.append(write_parquet(self._root, frame))

    def take_files(self) -> list[AddAction]:
        """The files of a local table, for one commit; they are staged no more."""
        files, self._files = self._files, []
        return files

    def take_frames(self, schema: pl.Schema) -> pl.DataFrame:
        """The frames for an object store's commit, as one; they are staged no more."""
        frames, self._frames = self._frames, []
        return pl.concat([pl.DataFrame(schema=schema), *frames], how="diagonal")

    def discard(self) -> None:
        """Remove what is staged."""
        self._frames = []
        self.remove(self.take_files())

    def remove(self, files: list[AddAction]) -> None:
        """Remove files that no commit names."""
        assert self._root is not None or not files
        for file in files:
            (Path(self._root or ".") / file.path).unlink(missing_ok=True)
