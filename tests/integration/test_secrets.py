"""Passwords and tokens of the settings are in nothing that a run writes: output, lake, work folder, dbt's files."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.alerts import DestinationError
from fraud_lakehouse.settings import Settings, load_settings
from tests.fixtures_kafka import Broker
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.kafka]
ROOT = Path(__file__).resolve().parents[2]
PASSWORD, TOKEN, SASL = "pw-Zq83kd71", "tok-Xw92hb55", "sasl-Vt47mc19"
SECRETS = (PASSWORD, TOKEN, SASL)


@pytest.fixture
def dsn(database: str, source: psycopg.Connection) -> Iterator[str]:
    """A login whose password is recognisable, in a database with a suspicious payment."""
    role = f"role_{conninfo_to_dict(database)['dbname']}"
    source.execute("create table users (user_id int primary key, name text, email text, registration_date timestamp)")
    source.execute(
        "create table transactions (transaction_id int primary key, user_id int, transaction_date timestamp,"
        " amount decimal(10,2))"
    )
    source.execute("insert into users values (1, 'a', 'a@example.com', now())")
    source.execute(
        "insert into transactions select i, 1, now() - i * interval '1 hour', 10 from generate_series(2, 9) i"
    )
    source.execute("insert into transactions values (99, 1, now(), 9999)")
    source.execute(f"create role {role} superuser login password '{PASSWORD}'")
    yield make_conninfo(database, user=role, password=PASSWORD)
    source.execute(f"drop owned by {role}")
    source.execute(f"alter role {role} nosuperuser")


@pytest.fixture
def kafka_login(kafka: Broker, tmp_path: Path) -> dict[str, str]:
    """Settings of a Kafka login that the broker refuses."""
    properties = tmp_path / "kafka.properties"
    properties.write_text(
        f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=u\nsasl.password={SASL}\n"
    )
    return {"FRAUD_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "FRAUD_KAFKA_CONFIG_FILE": str(properties)}


def test_no_secret_is_written_anywhere(dsn: str, kafka: Broker, kafka_login: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = {
        "FRAUD_LAKE": str(home / "lake"),
        "FRAUD_CACHE": str(home / "cache"),
        "FRAUD_POSTGRES_DSN": dsn,
        "FRAUD_POSTGRES_SLOT": str(conninfo_to_dict(dsn)["dbname"]),
        "FRAUD_ALERT_URLS": f"json://user:{TOKEN}@127.0.0.1:1/{TOKEN}/path",
    }
    wrong = {"FRAUD_POSTGRES_DSN": make_conninfo(dsn, user="nobody_here")}
    outputs = [
        call(home, settings, 0, "catch-up"),
        call(home, settings | wrong | kafka_login, None, "status", "--json"),
        call(home, settings | kafka_login, 3, "catch-up"),
    ]
    assert "nobody_here" in outputs[1], "the login that fails is named"
    assert f"{kafka.bootstrap}/bootstrap: SASL" in outputs[2]
    attempts = list((home / "lake" / "gold" / "alert_deliveries").glob("*.parquet"))
    assert attempts, "an alert was sent, and its failure recorded"
    assert not [(number, secret) for number, output in enumerate(outputs) for secret in SECRETS if secret in output]
    assert found(home) == []


def test_no_secret_is_in_what_dagster_keeps(
    dsn: str,
    kafka: Broker,
    kafka_login: dict[str, str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    right = {
        "lake": str(home / "lake"),
        "cache": str(home / "cache"),
        "postgres_dsn": dsn,
        "postgres_slot": conninfo_to_dict(dsn)["dbname"],
        "alert_urls": f"json://user:{TOKEN}@127.0.0.1:1/{TOKEN}/path",
    }
    login = {name.removeprefix("FRAUD_").lower(): value for name, value in kafka_login.items()}
    given = load_settings(**right)
    refused = load_settings(**right | login | {"postgres_dsn": make_conninfo(dsn, user="nobody_here")})
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert update(given, instance).success
        deliver = build_definitions(given).resolve_sensor_def("deliver_alerts")
        with pytest.raises(DestinationError, match=r"127\.0\.0\.1:1") as untold:
            deliver.evaluate_tick(dg.build_sensor_context(instance=instance))
        failed = update(refused, instance)
        reported = "".join(str(failed.failure_data_for_node(f"capture_{name}")) for name in ("bank", "cards"))
        assert "nobody_here" in reported and f"{kafka.bootstrap}/bootstrap: SASL" in reported
        assert not [secret for secret in SECRETS if secret in reported + str(untold.value)]
    assert not [secret for secret in SECRETS if secret in caplog.text + "".join(capfd.readouterr())]
    assert found(home) == []


def update(settings: Settings, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """Materialize everything, as Dagster's runs do."""
    job = build_definitions(settings).resolve_job_def("update")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def found(home: Path) -> list[tuple[str, Path]]:
    """The secrets in the files below a folder, and where."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return [(secret, path) for path in files for text in [content(path)] for secret in SECRETS if secret in text]


def content(path: Path) -> str:
    """The bytes of a file as text; of a Parquet file, which is compressed, its values."""
    if path.suffix == ".parquet":
        return str(pl.read_parquet(path).rows())
    return path.read_bytes().decode("latin-1")


def call(folder: Path, settings: dict[str, str], expected: int | None, *arguments: str) -> str:
    """What a command prints, at the most talkative level of logging."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")} | settings
    talkative = "import logging, sys; from fraud_lakehouse import cli; logging.root.setLevel(logging.DEBUG); cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", talkative, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert expected is None or done.returncode == expected, done.stderr
    return done.stdout + done.stderr
