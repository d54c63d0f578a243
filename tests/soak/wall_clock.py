"""A wall clock that steps, for the product's processes only: a preloaded library shifts what they read.

The machine's own clock, the servers and the monotonic clock stay as they are. Linux with a C compiler.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

_SOURCE = Path(__file__).with_name("wall_clock.c")
_PROBE = "import time, duckdb; print(time.time(), *duckdb.execute('select epoch(current_timestamp)').fetchone())"


class ClockError(AssertionError):
    """The clock of a process cannot be shifted on this machine."""


class WallClock:
    """Shifts by `step` what processes with `environment` read as the time; `has_stepped` says whether it ever did.

    Args:
        folder: for the compiled library and the shift; created.

    Raises:
        ClockError: there is no C compiler, or Python and DuckDB do not see the shift.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, library = folder / "shift", folder / "wall_clock.so"
        self._write(0)
        self.has_stepped = False
        compiler = shutil.which("cc")
        if compiler is None:
            raise ClockError("no C compiler: install one (Debian: gcc and libc6-dev)")
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, _SOURCE, "-ldl", "-lpthread"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "SOAK_CLOCK_FILE": str(self._file)}
        self._check()

    def step(self, seconds: int) -> None:
        """From now on the processes read the true time plus so many seconds."""
        self._write(seconds)
        self.has_stepped = True

    def _write(self, seconds: int) -> None:
        with open(self._file, "r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    def _check(self) -> None:
        """Python and DuckDB read the shifted time."""
        self._write(3_600)
        began = time.time()
        environment = os.environ | self.environment
        command = [sys.executable, "-c", _PROBE]
        shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        self._write(0)
        steps = [float(shifted) - began for shifted in shown.split()]
        if not all(3_600 <= step < 3_700 for step in steps):
            raise ClockError(f"Python and DuckDB read {steps} seconds more, not 3,600")
