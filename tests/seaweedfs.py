"""An S3-compatible object store for tests: one SeaweedFS process from its wheel, on free ports of the loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path

from pyarrow import fs

from tests.patience import PATIENCE

ACCESS_KEY = "access"
SECRET_KEY = "secret"
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


class SeaweedFS:
    """A running server.

    Args:
        home: empty folder for its data and its log.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """The `AWS_*` variables by which a client finds it."""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (self._home / "data").mkdir()
        (self._home / "s3.json").write_text(json.dumps({"identities": [identity]}))
        options = [
            f"-dir={self._home / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=50",
            "-master.telemetry=false",
            "-filer",
            "-s3",
            f"-s3.config={self._home / 's3.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]
        weed = Path(sysconfig.get_path("scripts")) / "weed"
        with (self._home / "weed.log").open("wb") as log:
            self._process = subprocess.Popen([weed, "server", *options], cwd=self._home, stdout=log, stderr=log)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def create_bucket(self, name: str) -> None:
        """Create a bucket, as soon as the server answers.

        Raises:
            RuntimeError: it does not.
        """
        client = fs.S3FileSystem(
            endpoint_override=self.environment["AWS_ENDPOINT_URL"],
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region="us-east-1",
            allow_bucket_creation=True,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                client.create_dir(name)
                return
            except OSError as error:
                if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                    log = (self._home / "weed.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"SeaweedFS does not answer: {error}\n{log}") from error
                time.sleep(0.2)

    def stop(self) -> None:
        """End it at once: its data are not needed any more, and SIGTERM can take most of a minute."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
