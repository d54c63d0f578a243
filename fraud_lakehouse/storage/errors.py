"""Translates storage and Delta exceptions into errors that name the table and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl
from deltalake.exceptions import CommitFailedError, DeltaError

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.storage.commit_conflict import is_conflict
from fraud_lakehouse.storage.lake import Lake

_NO_SPACE = ("No space left", "File too large", "Disk quota exceeded", "Invalid thrift: transport error")
"""Messages of a full disk; polars reports the last one when a Parquet footer did not fit."""


@contextmanager
def lake_errors(lake: Lake, layer: str, name: str) -> Iterator[None]:
    """Raise exceptions of storage and Delta as a LakeError that names the table and what to do.

    Raises:
        ConcurrentWriterError: another writer committed first.
        LakeError: any other failure.
    """
    table = f"{layer}/{name}"
    try:
        yield
    except (DeltaError, pl.exceptions.PolarsError, OSError) as error:
        if is_conflict(error):
            raise ConcurrentWriterError(
                f"another writer committed to {table} in {lake.root} first ({error})",
                "nothing was written twice; the next cycle reads the positions again and continues",
            ) from error
        if isinstance(error, CommitFailedError):
            raise LakeError(f"{table} in {lake.root} could not be committed: {error}", _fix(str(error))) from error
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        code = getattr(error, "errno", None)
        text = f"{error} {errno.errorcode.get(code, '')}" if code else str(error)
        raise LakeError(f"{table} in {lake.root} could not be written or read: {problem}", _fix(text)) from error


def _fix(text: str) -> str:
    if any(phrase in text for phrase in _NO_SPACE):
        return "free space on the lake's disk; nothing was acknowledged, the same rows are read again"
    return "point FRAUD_LAKE at a folder (or bucket) this user may write; nothing was acknowledged"
