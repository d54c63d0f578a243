"""Splits the stream of messages into runs of bounded size that can be decoded independently.

A change needs its transaction's end LSN, which only the Commit message has. A transaction larger than a run is buffered
in an unnamed file until its end is read, so memory does not grow with it.
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl

from fraud_lakehouse.errors import LakeError

RUN_MESSAGES = 200_000
RUN_BYTES = 64 * 1024 * 1024
CHANGES = b"IUDT"
_COMMIT = ord("C")
EPOCH_2000 = 946_684_800_000_000  # microseconds from 1970 to PostgreSQL's epoch


@dataclass(frozen=True)
class Part:
    """The transaction that a run is a piece of.

    Args:
        end_lsn: its end LSN.
        committed_us: its commit time, microseconds since 1970 UTC.
        changes_before: number of its change messages in earlier runs.
    """

    end_lsn: int
    committed_us: int
    changes_before: int


@dataclass(frozen=True)
class Run:
    """Messages in log order: whole transactions, or (with `part`) a piece of a single one."""

    messages: list[bytes]
    part: Part | None = None


class Runs:
    """Splits one stream.

    Args:
        folder: buffers transactions larger than a run, in an unnamed file that ends with the process.
        most_messages: a run ends once it has this many messages,
        most_bytes: or this many bytes.
    """

    def __init__(self, folder: Path, most_messages: int = RUN_MESSAGES, most_bytes: int = RUN_BYTES) -> None:
        self._folder = folder
        self._most_messages = most_messages
        self._most_bytes = most_bytes

    def cut(self, chunks: Iterable[list[bytes]]) -> Iterator[Run]:
        """The runs of a stream of whole transactions, which arrives in chunks of any size; each message once, in order.

        Raises:
            LakeError: a large transaction could not be buffered in `folder`.
        """
        with ExitStack() as files:
            pending: list[bytes] = []
            size = 0
            waiting: _Waiting | None = None
            for chunk in chunks:
                pending += chunk
                size += sum(map(len, chunk))
                if len(pending) < self._most_messages and size < self._most_bytes:
                    continue
                if waiting is not None and (end := _first_commit(pending)) is not None:
                    yield from waiting.runs(pending[: end + 1])
                    waiting, pending = None, pending[end + 1 :]
                    files.close()
                end = 0 if waiting is not None else _behind_last_commit(pending)
                if end:
                    yield Run(pending[:end])
                    pending = pending[end:]
                size = sum(map(len, pending))
                if len(pending) >= self._most_messages or size >= self._most_bytes:
                    with _full_disk(self._folder):
                        waiting = waiting or _Waiting(files.enter_context(_nameless(self._folder)))
                        waiting.add(pending)
                    pending, size = [], 0
            if waiting is not None:
                end = _first_commit(pending)
                assert end is not None, "a peek ends with a Commit"
                yield from waiting.runs(pending[: end + 1])
                pending = pending[end + 1 :]
            if pending:
                yield Run(pending)


class _Waiting:
    """The beginning of a transaction, in pieces in a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pieces: list[tuple[int, int]] = []  # bytes in the file, changes

    def add(self, messages: list[bytes]) -> None:
        packed = io.BytesIO()
        pl.DataFrame({"data": messages}, schema={"data": pl.Binary}).write_ipc(packed, compression="lz4")
        self._file.write(packed.getbuffer())
        self._pieces.append((packed.tell(), _changes(messages)))

    def runs(self, last: list[bytes]) -> Iterator[Run]:
        """The whole transaction; `last` has the messages after the file's, up to the Commit."""
        moment, end_lsn = struct.unpack_from(">q", last[-1], 18)[0], struct.unpack_from(">q", last[-1], 10)[0]
        before = 0
        self._file.seek(0)
        for size, changes in self._pieces:
            messages = pl.read_ipc(io.BytesIO(self._file.read(size)))["data"].to_list()
            yield Run(messages, Part(end_lsn, moment + EPOCH_2000, before))
            before += changes
        yield Run(last, Part(end_lsn, moment + EPOCH_2000, before))


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LakeError(
            f"a large transaction of the source cannot be buffered in {folder}: {error.strerror or error}",
            "free space there, or point FRAUD_WORK at another folder; the transaction is then read again",
        ) from error


def _nameless(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)


def _changes(messages: list[bytes]) -> int:
    return sum(message[0] in CHANGES for message in messages)


def _first_commit(messages: list[bytes]) -> int | None:
    return next((number for number, message in enumerate(messages) if message[0] == _COMMIT), None)


def _behind_last_commit(messages: list[bytes]) -> int:
    for number in range(len(messages), 0, -1):
        if messages[number - 1][0] == _COMMIT:
            return number
    return 0
