"""The embedded broker's own promises: identity, address, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fraud_lakehouse.demo.kafka import EmbeddedKafka, EmbeddedKafkaError
from tests.fixtures_kafka import Broker
from tests.patience import PATIENCE

pytestmark = pytest.mark.kafka


def living(cluster_id: str) -> list[int]:
    """Processes that carry this broker's name on their command line (a zombie has none)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if cluster_id.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def gone(cluster_id: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while living(cluster_id) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not living(cluster_id)


def test_same_identity_and_address_but_new_topics_after_a_restart(tmp_path: Path) -> None:
    server = EmbeddedKafka(tmp_path / "home")
    with server:
        first = (server.bootstrap, server.cluster_id)
        server.create_topic("t", 2)
        server.create_topic("t", 2)  # there already: left as it is
        topics = Broker(server.bootstrap).admin.list_topics(timeout=60).topics
        assert len(topics["t"].partitions) == 2
        assert server.start() == server.bootstrap  # running: nothing to do
    assert not server.running and gone(first[1])
    with server:
        assert (server.bootstrap, server.cluster_id) == first
        assert not Broker(server.bootstrap).admin.list_topics(timeout=60).topics


def test_listens_on_loopback_only(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path) as server:
        host, _, port = server.bootstrap.rpartition(":")
        assert host == "127.0.0.1"
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = {
            s[1].partition(":")[0] for s in sockets if s[3] == "0A" and int(s[1].partition(":")[2], 16) == int(port)
        }
        assert listening == {"0100007F"}


def test_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, threading, time; from pathlib import Path; from fraud_lakehouse.demo.kafka import EmbeddedKafka\n"
        "server = EmbeddedKafka(Path(sys.argv[1]))\n"
        "thread = threading.Thread(target=server.start); thread.start(); thread.join()\n"
        "time.sleep(0.2); print('up' if server.running else 'down', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"  # the thread that started it is over, it is not
        assert living(EmbeddedKafka(tmp_path).cluster_id)
        parent.kill()
    assert gone(EmbeddedKafka(tmp_path).cluster_id)


def test_broker_left_behind_is_ended_at_the_next_start(tmp_path: Path) -> None:
    first = EmbeddedKafka(tmp_path)
    first.start()
    (broker,) = [int((tmp_path / "broker.pid").read_text())]
    for pid in living(first.cluster_id):
        if pid != broker:
            os.kill(pid, signal.SIGKILL)  # the guard
    with EmbeddedKafka(tmp_path) as second:
        assert int((tmp_path / "broker.pid").read_text()) != broker
        assert second.running and not first.running
    first.stop()
    assert gone(second.cluster_id)


def test_taken_port_means_another_port(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "one") as one, EmbeddedKafka(tmp_path / "two") as two:
        assert one.bootstrap != two.bootstrap
        (tmp_path / "three").mkdir()
        (tmp_path / "three" / "port").write_text(one.bootstrap.rpartition(":")[2])
        with EmbeddedKafka(tmp_path / "three") as three:
            assert three.bootstrap not in (one.bootstrap, two.bootstrap)


def test_not_running_is_told(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedKafkaError, match="is not running"):
        EmbeddedKafka(tmp_path).create_topic("t")
    EmbeddedKafka(tmp_path).stop()  # nothing to stop
