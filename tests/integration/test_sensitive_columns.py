"""Sensitive columns of a real database: in no file of the lake, from the snapshot, the log and a resync."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import psycopg
import pytest

from fraud_lakehouse.ingest import PostgresIngest, resync
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.runner import Transformer

pytestmark = pytest.mark.postgres
KEY = "a key that is long enough"
SOURCES = """
shop:
  type: postgres
  dsn_env: SHOP_DSN
  slot: {slot}
  publication: {slot}
  hash_key_env: SHOP_HASH_KEY
  sensitive:
    members: {{drop: [password], mask: [iban], hash: [ssn]}}
    logins: {{drop: [pasword]}}
"""


@pytest.fixture
def settings(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "sources.yml").write_text(SOURCES.format(slot=f"s_{uuid4().hex[:12]}"))
    (folder / "streams.yml").write_text("{}")
    monkeypatch.setenv("SHOP_DSN", database)
    monkeypatch.setenv("SHOP_HASH_KEY", KEY)
    monkeypatch.setenv("FRAUD_PIPELINE", str(folder))
    return load_settings(lake=str(tmp_path / "lake"))


def land(settings: Settings) -> None:
    with PostgresIngest(settings, Lake.at(settings.lake), postgres_source(settings)) as ingest:
        while ingest.step(1000):
            pass


def replica(settings: Settings) -> list[tuple[Any, ...]]:
    transformer = Transformer(settings)
    try:
        transformer.build_tier("rest").raise_for_errors()
    finally:
        transformer.close()
    return pl.read_delta(f"{settings.lake}/silver/members").sort("name").rows()


def hashed(text: str) -> str:
    return hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


def test_nothing_sensitive_is_stored(database: str, settings: Settings) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table members (ssn int primary key, name text, iban text, password text)")
        connection.execute("create table logins (id int primary key, password text)")
        connection.execute("insert into members values (4711, 'Ann', 'DE12345678', 'hunter2'), (4712, 'Bob', 'x', 'y')")
        connection.execute("insert into logins values (1, 'hunter2')")
        land(settings)
        connection.execute("insert into members values (4713, 'Cyd', 'FR99998888', 'hunter2')")
        connection.execute("update members set iban = 'DE87654321' where ssn = 4711")
        connection.execute("delete from members where ssn = 4712")
        connection.execute("update members set ssn = 4799, password = 'hunter2' where ssn = 4713")
        land(settings)
        expected = [(hashed("4711"), "Ann", "******4321"), (hashed("4799"), "Cyd", "******8888")]
        assert replica(settings) == expected
        assert pl.read_delta(f"{settings.lake}/bronze/members")["_op"].to_list().count("d") == 2

        events = pl.read_delta(f"{settings.lake}/bronze/members").height
        resync(settings, Lake.at(settings.lake), ["members"])
        assert pl.read_delta(f"{settings.lake}/bronze/members").height == events, "hashes and masks compare as stored"

    tables = [pl.read_delta(f"{settings.lake}/{table}") for table in ("bronze/members", "silver/members_history")]
    text = repr([table.rows() for table in tables])
    assert not [secret for secret in ("hunter2", "DE12345678", "DE87654321", "4711", "4799") if secret in text]
    assert not [name for table in tables for name in table.columns if name == "password"]
    # a column that is not there is a mistake, and the table is not captured until it is corrected
    assert not Lake.at(settings.lake).exists("bronze", "logins")
    with PostgresIngest(settings, Lake.at(settings.lake), postgres_source(settings)) as ingest:
        ingest.capture.tables()
        (refused,) = ingest.capture.refused
    assert "has no column pasword, which sources.yml declares as sensitive" in str(refused.error)
