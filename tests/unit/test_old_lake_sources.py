"""A lake of version 0.1, whose two sources had no names: its tables, positions and records are the shipped sources'."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.defs.bronze import bronze_tables
from fraud_lakehouse.ingest.evolution import other_owner, recorded_names
from fraud_lakehouse.ingest.postgres import open_capture
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.declared import bank_and_cards

PACKED = Path(__file__).parents[1] / "data" / "lake_0_1.tar.gz"
UNREACHABLE = "host=127.0.0.1 port=1 dbname=bank connect_timeout=2"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The lake, with a second database in the pipeline."""
    with tarfile.open(PACKED) as packed:
        packed.extractall(tmp_path / "lake", filter="data")
    folder = tmp_path / "pipeline"
    folder.mkdir()
    shop = "shop:\n  type: postgres\n  dsn_env: SHOP_DSN\n"
    (folder / "sources.yml").write_text((bank_and_cards() / "sources.yml").read_text() + shop)
    (folder / "streams.yml").write_text((bank_and_cards() / "streams.yml").read_text())
    monkeypatch.setenv("SHOP_DSN", "host=127.0.0.1 port=1 dbname=shop connect_timeout=2")
    return load_settings(lake=str(tmp_path / "lake"), pipeline=folder, postgres_dsn=UNREACHABLE)


def test_its_tables_belong_to_the_shipped_database(settings: Settings) -> None:
    lake, bank, shop = Lake.at(settings.lake), postgres_source(settings, "bank"), postgres_source(settings, "shop")
    assert recorded_names(lake, bank) == {("public", name): name for name in ("transactions", "users")}
    assert recorded_names(lake, shop) == {}
    assert [other_owner(lake, one, "users") for one in (bank, shop)] == [None, "of FRAUD_POSTGRES_DSN"]
    captures = [open_capture(settings, lake, one) for one in (bank, shop)]
    assert [capture._owner("users") for capture in captures] == [None, "of FRAUD_POSTGRES_DSN"]
    tables = {source.name: found for source, found in bronze_tables(settings).items()}
    assert tables == {"bank": ["transactions", "users"], "cards": ["card_transactions"], "shop": []}


def test_its_records_are_read_under_the_new_names(settings: Settings) -> None:
    audit = Audit(Lake.at(settings.lake))
    bank, cards = audit.known("bank"), audit.known("cards", "transaction")
    assert bank is not None and bank.detail["identity"].startswith("pg:")
    assert cards is not None and cards.detail["identity"].startswith("kafka:")
    assert audit.known("shop") is None and audit.rows("postgres") == audit.rows("bank"), "by either name"
    found = {source.name: source for source in collect(settings).sources}
    assert found["bank"].position is not None and found["bank"].last_batch is not None
    assert found["shop"].position is None and found["shop"].last_batch is None
