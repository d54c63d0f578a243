"""Real Apache Kafka for the tests: one KRaft node from its published Java artifacts, fetched once by Maven.

The artifacts are kept under $XDG_CACHE_HOME (default ~/.cache)/fraud_lakehouse/kafka/<version>.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

VERSION = "4.1.0"
SCALA = "2.13"
_JAVA = ["java", "-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1"]
_POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>fraud_lakehouse</groupId><artifactId>test-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_{SCALA}</artifactId><version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
log.dirs={home}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
log.initial.task.delay.ms=500
log.segment.delete.delay.ms=100
"""


class ApacheKafkaMissingError(Exception):
    """Java, Maven or the artifacts cannot be had here; says which and why."""


def artifacts() -> Path:
    """The folder of jars; fetched by Maven when they are not there yet.

    Raises:
        ApacheKafkaMissingError: no Java 17 or Maven, or Maven could not fetch.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise ApacheKafkaMissingError(f"{program} is not installed")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraud_lakehouse" / "kafka" / VERSION
    jars = root / "jars"
    if (root / "complete").exists():
        return jars
    root.mkdir(parents=True, exist_ok=True)
    (root / "pom.xml").write_text(_POM)
    command = ["mvn", "-q", "-B", "-f", str(root / "pom.xml"), "dependency:copy-dependencies"]
    try:
        fetched = subprocess.run(
            [*command, f"-DoutputDirectory={jars}"], capture_output=True, text=True, timeout=150, check=False
        )
    except subprocess.TimeoutExpired:
        raise ApacheKafkaMissingError("Maven did not fetch the artifacts within 150 s") from None
    if fetched.returncode != 0:
        raise ApacheKafkaMissingError(f"Maven could not fetch the artifacts: {fetched.stdout.strip()[:300]}")
    (root / "complete").touch()
    return jars


class ApacheKafka:
    """One broker that is its own controller, on loopback; data and log in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bootstrap = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Fetch, format, start, wait until the port answers.

        Raises:
            ApacheKafkaMissingError: the artifacts or a fitting Java are not to be had.
        """
        classpath = f"{artifacts()}/*"
        properties = self.home / "server.properties"
        broker, controller = _free_ports(2)
        properties.write_text(_PROPERTIES.format(home=self.home, broker=broker, controller=controller))
        tool = [*_JAVA, "-cp", classpath, "kafka.tools.StorageTool"]
        cluster_id = "ZnJhdWRfbGFrZWhvdXNlMQ"
        formatted = subprocess.run(
            [*tool, "format", "-t", cluster_id, "-c", str(properties)], capture_output=True, text=True, check=False
        )
        if "UnsupportedClassVersionError" in formatted.stderr:
            raise ApacheKafkaMissingError("the installed Java is too old: Kafka needs 17")
        assert formatted.returncode == 0, formatted.stderr
        with (self.home / "kafka.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*_JAVA, "-cp", classpath, "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.home / "kafka.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", broker), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                self.bootstrap = f"127.0.0.1:{broker}"
                return self.bootstrap
        raise AssertionError(f"Apache Kafka did not start: {(self.home / 'kafka.log').read_text()}")

    def stop(self) -> None:
        """Kill it: nothing of it is needed again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
