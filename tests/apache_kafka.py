"""Real Apache Kafka for the tests: one KRaft node from its published Java artifacts, fetched once by Maven.

The artifacts are kept under $XDG_CACHE_HOME (default ~/.cache)/fraud_lakehouse/kafka/<version>-tools.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.optional import cache
from tests.patience import PATIENCE

VERSION = "4.1.0"
SCALA = "2.13"
USER, PASSWORD = "reader", "quite-secret-4711"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_JAVA = ["java", "-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1"]
_POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>fraud_lakehouse</groupId><artifactId>test-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_{SCALA}</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},SECURE://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
controller.listener.names=CONTROLLER
listener.name.secure.ssl.keystore.type=PKCS12
listener.name.secure.ssl.keystore.location={home}/broker.p12
listener.name.secure.ssl.keystore.password=of-this-test
listener.name.secure.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.secure.plain.sasl.jaas.config={plain} required user_reader="{password}";
listener.name.secure.scram-sha-512.sasl.jaas.config={scram} required;
log.dirs={home}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
log.initial.task.delay.ms=500
log.segment.delete.delay.ms=100
log.cleaner.backoff.ms=100
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
    root = cache("kafka", f"{VERSION}-tools")
    jars = root / "jars"
    if (root / "complete").exists():
        return jars
    root.mkdir(parents=True, exist_ok=True)
    (root / "pom.xml").write_text(_POM)
    command = ["mvn", "-q", "-B", "-f", str(root / "pom.xml"), "dependency:copy-dependencies"]
    try:
        fetched = subprocess.run(
            [*command, f"-DoutputDirectory={jars}"], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise ApacheKafkaMissingError(f"Maven did not fetch the artifacts within {PATIENCE:.0f} s") from None
    if fetched.returncode != 0:
        raise ApacheKafkaMissingError(f"Maven could not fetch the artifacts: {fetched.stdout.strip()[:300]}")
    (root / "complete").touch()
    return jars


class ApacheKafka:
    """One broker that is its own controller, on loopback; data and log in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bootstrap = ""
        self.secure = ""
        """Address of the listener with TLS and SASL (PLAIN or SCRAM-SHA-512) for `USER`; trusts `certificate`."""
        self.certificate = home / "broker.pem"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Fetch, format, start, wait until the port answers.

        Raises:
            ApacheKafkaMissingError: the artifacts or a fitting Java are not to be had.
        """
        classpath = f"{artifacts()}/*"
        properties = self.home / "server.properties"
        broker, secure, controller = _free_ports(3)
        ports = {"broker": broker, "secure": secure, "controller": controller}
        properties.write_text(
            _PROPERTIES.format(home=self.home, plain=_PLAIN, scram=_SCRAM, password=PASSWORD, **ports)
        )
        make_certificate(self.home / "broker.p12", self.certificate)
        tool = [*_JAVA, "-cp", classpath, "kafka.tools.StorageTool"]
        options = ["-t", "ZnJhdWRfbGFrZWhvdXNlMQ", "-c", str(properties)]
        options += ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"]
        formatted = subprocess.run([*tool, "format", *options], capture_output=True, text=True, check=False)
        if "UnsupportedClassVersionError" in formatted.stderr:
            raise ApacheKafkaMissingError("the installed Java is too old: Kafka needs 17")
        assert formatted.returncode == 0, formatted.stderr
        self.bootstrap, self.secure = f"127.0.0.1:{broker}", f"127.0.0.1:{secure}"
        self._launch()
        return self.bootstrap

    def restart(self) -> None:
        """Kill it and start it again on the same data and ports."""
        self.stop()
        self._launch()

    def _launch(self) -> None:
        command = [*_JAVA, "-cp", f"{artifacts()}/*", "kafka.Kafka", str(self.home / "server.properties")]
        with (self.home / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        port = int(self.bootstrap.rpartition(":")[2])
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.home / "kafka.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"Apache Kafka did not start: {(self.home / 'kafka.log').read_text()}")

    def transactions_tool(self, *arguments: str) -> str:
        """Run kafka-transactions.sh with these arguments; what it printed."""
        command = [*_JAVA, "-cp", f"{artifacts()}/*", "org.apache.kafka.tools.TransactionsCommand", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        """Kill it: nothing of it is needed again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


def make_certificate(store: Path, certificate: Path) -> None:
    """A new self-signed key of a day for 127.0.0.1: in a PKCS12 store for the server, its certificate as PEM."""
    entry = ["-alias", "broker", "-keystore", str(store), "-storepass", "of-this-test"]
    of_key = ["-storetype", "PKCS12", "-keyalg", "EC", "-dname", "CN=127.0.0.1", "-ext", "SAN=ip:127.0.0.1"]
    for command in (["-genkeypair", *of_key, "-validity", "1"], ["-exportcert", "-rfc", "-file", str(certificate)]):
        subprocess.run(["keytool", *command, *entry], check=True, capture_output=True)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
