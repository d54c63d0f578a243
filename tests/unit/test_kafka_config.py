"""The operator's properties file and what it may not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.capture import KafkaCapture
from fraud_lakehouse.sources.kafka.config import KafkaClients, read_properties, shipped_topic
from fraud_lakehouse.sources.kafka.topic import KafkaTopic, TopicRecreatedError, verify_identity
from tests.fixtures_kafka import CARDS


def written(folder: Path, text: str) -> Path:
    path = folder / "kafka.properties"
    path.write_text(text)
    return path


def test_properties_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "# SASL\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b c\n")
    assert read_properties(path, CARDS) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b c"}


@pytest.mark.parametrize(
    "text, reported",
    [
        ("security.protocol", "line 1: expected name=value"),
        ("\n=x", "line 2: expected name=value"),
        ("enable.auto.commit=true", "line 1: enable.auto.commit cannot be set"),
        ("#\nauto.offset.reset=earliest", "line 2: auto.offset.reset cannot be set"),
        ("bootstrap.servers=x:1", "line 1: bootstrap.servers does not belong here"),
    ],
)
def test_wrong_line_is_named(tmp_path: Path, text: str, reported: str) -> None:
    with pytest.raises(SettingsError, match=reported):
        read_properties(written(tmp_path, text), CARDS)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"FRAUD_KAFKA_CONFIG_FILE: cannot read .*nowhere"):
        read_properties(tmp_path / "nowhere", CARDS)


@pytest.mark.parametrize("line", ["no.such.property=1", "fetch.wait.max.ms=soon"])
def test_property_librdkafka_does_not_know_is_named(tmp_path: Path, line: str) -> None:
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1", kafka_config_file=written(tmp_path, line))
    with pytest.raises(SettingsError, match=f"librdkafka refuses the properties: .*{line.partition('=')[0]}"):
        KafkaClients(shipped_topic(settings)).consumer()


def test_no_bootstrap_servers_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="FRAUD_KAFKA_BOOTSTRAP_SERVERS is not set"):
        KafkaCapture(Settings())


def test_nothing_is_connected_before_it_is_needed() -> None:
    with KafkaCapture(Settings(kafka_bootstrap_servers="127.0.0.1:1")) as capture:
        assert capture.wait(60)  # read will tell


def test_positions_belong_to_one_identity() -> None:
    topic = KafkaTopic("t", "c", "i:d", 2)
    assert topic.app_id(1) == "kafka:c:i:d:1"
    assert topic.positions({1: 5, 0: None}) == {"kafka:c:i:d:1": 5}
    assert [topic.partition_of(name) for name in ("kafka:c:i:d:1", "kafka:c:x:1", "kafka:c:i:d:x", "1")] == [
        1,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    "now", [KafkaTopic("t", "c", "other", 2), KafkaTopic("t", "x", "i", 2), KafkaTopic("t", "c", "i", 1)]
)
def test_other_identity_fails_closed(now: KafkaTopic) -> None:
    before = KafkaTopic("t", "c", "i", 2)
    verify_identity(before, KafkaTopic("t", "c", "i", 3), "cards")  # a partition more is the same topic
    with pytest.raises(TopicRecreatedError, match="accept-source cards"):
        verify_identity(before, now, "cards")
