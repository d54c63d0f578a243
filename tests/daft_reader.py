"""Daft for the tests: it reads tables in a process and an environment of its own, as it needs an older pyarrow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import polars as pl

from tests.fetched import environment

VERSION = "0.7.26"


class Daft:
    """The two ends of a pipe to `daft_session.py`.

    Raises:
        NotFetchedError: Daft cannot be had here.
    """

    def __init__(self, home: Path) -> None:
        python = environment("daft", VERSION, Path(__file__).with_name("daft.lock").read_text())
        self._file = home / "read.arrow"
        self._log = home / "daft.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, Path(__file__).with_name("daft_session.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def read(self, table: str, version: int) -> pl.DataFrame:
        """A version of a Delta table.

        Raises:
            AssertionError: Daft refuses it; with its message.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        requested = {"table": table, "version": version, "file": str(self._file)}
        self._process.stdin.write(json.dumps(requested) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"Daft ended: {self._log.read_text()[-2000:]}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return pl.read_ipc(self._file.read_bytes())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
