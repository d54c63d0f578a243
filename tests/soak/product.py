"""The product as a process: started with settings, killed, stopped, starved of disk, ended."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.patience import PATIENCE

PROGRAMS = {
    "landing": [sys.executable, "-m", "tests.soak.landing"],
    "live": [sys.executable, "-m", "fraud_lakehouse.cli", "live"],
    "resync": [sys.executable, "-m", "fraud_lakehouse.cli", "resync"],
    "catch-up": [sys.executable, "-m", "fraud_lakehouse.cli", "catch-up"],
    "validate": [sys.executable, "-m", "fraud_lakehouse.cli", "validate"],
}
_ROOT = Path(__file__).resolve().parents[2]
_OBEY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]


class ProductError(AssertionError):
    """The process did not do what the test needs; quotes its output."""


class Product:
    """One process.

    Args:
        program: a key of `PROGRAMS`.
        settings: FRAUD_* variables, of which the process gets no other ones, and others to add to the environment.
        log: file its output is written to.
        arguments: further ones of the program.
        failpoint: name[:hits][:action] to arm.
        obey: let the process meet file permissions even as root.
    """

    def __init__(
        self,
        program: str,
        settings: Mapping[str, str],
        log: Path,
        *arguments: str,
        failpoint: str = "",
        obey: bool = False,
    ) -> None:
        ours = {name for name in os.environ if name.startswith("FRAUD_") and name != "FRAUD_PIPELINE"}
        environment = {name: text for name, text in os.environ.items() if name not in ours}
        environment |= dict(settings) | {"FRAUD_FAILPOINT": failpoint, "PYTHONPATH": str(_ROOT)}
        command = [*(_OBEY if obey and needs_setpriv() else []), *PROGRAMS[program], *arguments]
        self.log = log
        self.failpoint = failpoint
        # A pipe, not the file: a process whose files may not grow could not say so there.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=_ROOT,
        )
        self._reader = threading.Thread(target=self._keep_output, daemon=True)
        self._reader.start()

    def __enter__(self) -> Product:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """Whether the process lives (a stopped one does)."""
        return self.process.poll() is None

    def _keep_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output, self.log.open("wb", buffering=0) as log:
            for line in output:
                log.write(line)

    @property
    def output(self) -> str:
        """What it printed so far."""
        if not self.running:
            self._reader.join(5)
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_killed(self, timeout: float = PATIENCE) -> None:
        """Wait until the armed failpoint has killed it.

        Raises:
            ProductError: it ended otherwise, or never came by the failpoint.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProductError(f"{self.failpoint} was never reached: {self.output[-2000:]}") from None
        if code != -signal.SIGKILL:
            raise ProductError(f"the process ended with {code} before {self.failpoint}: {self.output[-2000:]}")

    def wait_stopped(self, timeout: float = PATIENCE) -> None:
        """Wait until the armed failpoint has stopped it (SIGSTOP).

        Raises:
            ProductError: it ended, or never came by the failpoint.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not self.running:
                break
            if Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return
            time.sleep(0.01)
        raise ProductError(f"{self.failpoint} was never reached: {self.output[-2000:]}")

    def wait_ended(self, timeout: float = PATIENCE) -> int:
        """Wait until it ends by itself; its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProductError(f"the process did not end: {self.output[-2000:]}") from None

    def wait_for(self, text: str, timeout: float = PATIENCE) -> None:
        """Wait until it has printed a text.

        Raises:
            ProductError: it ended before, or did not in time.
        """
        deadline = time.monotonic() + timeout
        while text not in self.output:
            if not self.running or time.monotonic() > deadline:
                raise ProductError(f"{text!r} was never printed: {self.output[-2000:]}")
            time.sleep(0.02)

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    @property
    def memory(self) -> int:
        """Bytes of memory it has now."""
        return self._status("VmRSS")

    @property
    def address_space(self) -> int:
        """Bytes it has mapped."""
        return self._status("VmSize")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(1_024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    @property
    def children(self) -> list[int]:
        """Its child processes."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
            if parent == self.process.pid:
                found.append(int(status.parent.name))
        return found

    @contextlib.contextmanager
    def limited(self, limit: int, size: int) -> Iterator[None]:
        """Lower a limit of `resource.RLIMIT_*` for the block."""
        before = resource.prlimit(self.process.pid, limit)
        resource.prlimit(self.process.pid, limit, (size, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # the limit ended it
                resource.prlimit(self.process.pid, limit, before)

    def limit_files(self, size: int | None) -> None:
        """Let no file of the process grow beyond `size` bytes: what a full disk is to a writer. None: no limit."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def kill(self) -> None:
        """SIGKILL, whatever state it is in."""
        if self.running:
            self.process.kill()
        self.process.wait()

    def end(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, then wait; its exit code."""
        if self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.wait_ended(timeout)


def needs_setpriv() -> bool:
    """Whether this user is not bound by file permissions; the program that binds it is then needed."""
    return os.geteuid() == 0


def can_obey() -> bool:
    """Whether a process can be made to meet file permissions here."""
    return not needs_setpriv() or shutil.which("setpriv") is not None
