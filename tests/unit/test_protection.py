"""Sensitive columns are dropped, masked or hashed before anything is stored."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline import find_mistakes, load_pipeline
from fraud_lakehouse.sources.kafka.config import topic_configs
from fraud_lakehouse.sources.kafka.records import NOT_KEPT, RawRecords, RecordDecoder, schema_of
from fraud_lakehouse.sources.protection import protection_of
from tests.change_records import event, plain

KEY = "a key that is long enough"
SOURCES = """
shop:
  type: kafka
  servers_env: SHOP_SERVERS
  hash_key_env: HASH_KEY
  topics:
    - topic: people
      table: people
      format: {format}
      {key}
      drop: [password]
      mask: [iban]
      hash: [ssn]
      fields: {{id: int64, name: string, iban: string, ssn: int64}}
"""


def hashed(text: str) -> str:
    return hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


def decoder(tmp_path: Path, format: str = "json") -> RecordDecoder:
    key = "key: [id]" if format == "debezium" else "update_delay: 0"
    text = SOURCES.format(format=format, key=key).replace("      update_delay: 0\n", "")
    (tmp_path / "sources.yml").write_text(text)
    (tmp_path / "streams.yml").write_text("{}")
    environment = {"SHOP_SERVERS": "localhost:1", "HASH_KEY": KEY}
    (topic,) = topic_configs(load_pipeline(tmp_path, environment), environment, 1_000_000)
    assert schema_of(topic)["ssn"] == pl.String()
    return RecordDecoder(topic)


def everything(frame: pl.DataFrame) -> str:
    """All values of a frame as text, bytes included."""
    return repr([[value if value is not None else "" for value in row] for row in frame.rows()])


def test_values_are_masked_and_hashed_whatever_their_type() -> None:
    protection = protection_of("t", {"mask": ["iban", "born"], "hash": ["ssn", "total", "blob"]}, "K", {"K": KEY})
    frame = pl.DataFrame(
        {
            "iban": ["DE12345678", "1234", "äöüßé", "", None],
            "born": [date(2000, 1, 1)] * 5,
            "ssn": [7, 8, None, 7, 9],
            "total": [Decimal("1.50")] * 5,
            "blob": [b"\x01\xff", None, b"", b"a", b"b"],
            "_text": ['{"ssn":"7","note":"x"}', '{"iban":"y"}', None, None, None],
            "_unchanged": ['["iban","note"]', None, None, None, None],
        }
    )
    found = protection.frame(frame)
    assert found["iban"].to_list() == ["******5678", "****", "*öüßé", "", None]
    assert found["born"].to_list() == [None] * 5
    assert found["ssn"].to_list() == [hashed("7"), hashed("8"), None, hashed("7"), hashed("9")]
    assert found["total"][0] == hashed("1.50")
    assert found["blob"].to_list() == [hashed("01ff"), None, hashed(""), hashed("61"), hashed("62")]
    assert found["_text"].to_list() == ['{"note":"x"}', None, None, None, None]
    assert found["_unchanged"].to_list() == ['["iban","note"]', None, None, None, None]
    assert found.schema == pl.Schema(protection.schema(dict(frame.schema)))


def test_a_hash_needs_its_key() -> None:
    with pytest.raises(SettingsError, match="K is not set, and people has columns to be hashed"):
        protection_of("people", {"hash": ["ssn"]}, "K", {})
    assert "long" not in repr(protection_of("people", {"hash": ["ssn"]}, "K", {"K": KEY}))


@pytest.mark.parametrize("format", ["json", "debezium"])
def test_nothing_sensitive_of_a_record_is_kept(tmp_path: Path, format: str) -> None:
    row = {"id": 1, "name": "Ann", "iban": "DE12345678", "ssn": 4711, "password": "hunter2"}
    wrong = row | {"ssn": "47x11"}
    records = [event("u", row, one, lsn=number) for number, one in enumerate((row, wrong))]
    values = [
        plain(record) if format == "debezium" else plain(one) for record, one in zip(records, (row, wrong), strict=True)
    ]
    raw = RawRecords("people", [0, 0], [0, 1], [0, 0], [*values], [b'{"id":1,"ssn":4711}', b"hunter2"])
    found = decoder(tmp_path, format).decode(raw)
    good, bad = found.to_dicts()
    assert (good["id"], good["name"], good["iban"], good["ssn"]) == (1, "Ann", "******5678", hashed("4711"))
    assert good["_error"] is None and good["_raw"] is None
    assert bad["_raw"] == b"" and bad["_error"].startswith("$.ssn: ") and bad["_error"].endswith(NOT_KEPT)
    text = everything(found)
    assert not [secret for secret in ("hunter2", "4711", "47x11", "DE1234") if secret in text]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("drop: [password]", "drop: [name]", "sources.yml:11: shop.topics.*drop.*found 'name', a declared field"),
        ("mask: [iban]", "mask: [ibn]", "sources.yml:12: .*found 'ibn', expected .*did you mean iban"),
        ("mask: [iban]", "mask: [ssn]", "sources.yml:13: .*found 'ssn', which is also in mask"),
        ("  hash_key_env: HASH_KEY\n", "", "sources.yml:.*columns are to be hashed, expected hash_key_env"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    text = SOURCES.format(format="json", key="topic_env: PEOPLE")
    assert old in text
    (tmp_path / "sources.yml").write_text(text.replace(old, new))
    (tmp_path / "streams.yml").write_text("{}")
    (mistake,) = find_mistakes(tmp_path, {})
    assert re.match(expected, str(mistake)), mistake
