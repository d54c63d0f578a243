"""Rows of one table that are written but not committed: readers see them only after the commit that names the files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from deltalake.transaction import AddAction

from fraud_lakehouse.storage.parquet import write_parquet


class Staging:
    """Frames to be committed to a table, each with exactly the table's columns at that time.

    For a local table each frame becomes a durable Parquet file at once; if the process dies, vacuum deletes it. For an
    object store the frames stay in memory, since delta-rs writes files and commit together there.

    Args:
        root: the folder of a local table, None on an object store.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._files: list[AddAction] = []
        self._frames: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame) -> None:
        """Stage a frame.

        Raises:
            OSError, polars.exceptions.PolarsError: it could not be written; no partial file is left.
        """
        if self._root is None:
            self._frames.append(frame)
        else:
            self._files.append(write_parquet(self._root, frame))

    def take_files(self) -> list[AddAction]:
        """Remove and return the staged files of a local table, for one commit."""
        files, self._files = self._files, []
        return files

    def take_frames(self, schema: pl.Schema) -> pl.DataFrame:
        """Remove the staged frames and return them as one, for a commit to an object store."""
        frames, self._frames = self._frames, []
        return pl.concat([pl.DataFrame(schema=schema), *frames], how="diagonal")

    def discard(self) -> None:
        """Delete everything staged."""
        self._frames = []
        self.remove(self.take_files())

    def remove(self, files: list[AddAction]) -> None:
        """Delete files that no commit names."""
        assert self._root is not None or not files
        for file in files:
            (Path(self._root or ".") / file.path).unlink(missing_ok=True)
