"""Generated pages are complete, examples of the how-tos are accepted, and the prose check finds what it should."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from fraud_lakehouse.errors import EXIT_CODES
from fraud_lakehouse.pipeline import load_pipeline, shipped_folder
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.project import current_catalogue

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs" / "how-to"


def loaded(path: str) -> ModuleType:
    """A script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: page() for name, page in loaded("docs/hooks/reference.py").PAGES.items()}


def rows(page: str) -> list[str]:
    """First cell of each row of the tables, without its code marks."""
    return [cell.strip("`") for cell in re.findall(r"^\| ([^|]+) \|", page, flags=re.MULTILINE)]


def example(name: str, containing: str) -> str:
    """The YAML block of a how-to that has this text, without the indentation of its list."""
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", (HOW_TO / name).read_text(), flags=re.DOTALL | re.MULTILINE)
    (found,) = [
        "\n".join(line[len(indent) :] for line in text.splitlines()) for indent, text in blocks if containing in text
    ]
    return found


def test_every_setting_exit_code_and_shipped_rule_has_a_line(pages: dict[str, str]) -> None:
    assert {f"FRAUD_{name.upper()}" for name in Settings.model_fields} <= set(rows(pages["settings"]))
    assert {str(code) for code in EXIT_CODES} <= set(rows(pages["errors"]))
    for rule in (shipped_folder() / "rules").glob("*.yml"):
        assert f"\n## {rule.stem}\n" in pages["rules"]


def test_every_command_has_its_options(pages: dict[str, str]) -> None:
    for command in ("catch-up", "features as-of", "pipeline check", "quarantine replay", "rules check", "status"):
        assert f"\n## {command}\n" in pages["commands"]
    assert {"--known-by", "--from", "--rule", "--json"} <= set(rows(pages["commands"]))


def test_metrics_features_and_columns_are_those_of_the_code(pages: dict[str, str]) -> None:
    assert {"fraud_slot_retained_bytes", "fraud_cycles_total", "fraud_alert_seconds"} <= set(rows(pages["metrics"]))
    assert {"user_amt_z_30d", "merchant_fraud_share_30d", "count_10min"} <= set(rows(pages["features"]))
    assert {"alert_id", "known_at"} <= set(rows(pages["columns"]))
    assert "{{" not in pages["columns"], "every doc block is resolved"


def test_the_documented_sources_and_streams_are_accepted(tmp_path: Path) -> None:
    sources = [example("add-a-source.md", name) for name in ("dsn_env: SHOP_DSN", "servers_env: WEB_SERVERS")]
    (tmp_path / "sources.yml").write_text("\n".join(sources))
    streams = [example("add-a-stream.md", name) for name in ("shop_orders:", "shop_payments:")]
    (tmp_path / "streams.yml").write_text("\n".join(streams))
    pipeline = load_pipeline(tmp_path, {})
    assert set(pipeline.sources) == {"shop", "web"}
    assert set(pipeline.streams) == {"shop_orders", "shop_payments"}


def test_the_documented_features_and_windows_are_accepted(tmp_path: Path) -> None:
    catalogue = yaml.safe_load((shipped_folder() / "features.yml").read_text())
    catalogue["features"] += yaml.safe_load(example("add-a-feature.md", "travel"))
    catalogue["tables"]["card_payments"] |= yaml.safe_load(example("add-a-table-of-windows.md", "past: tumble, key"))
    catalogue["features"] += yaml.safe_load(example("add-a-table-of-windows.md", "1h_window"))
    (tmp_path / "features.yml").write_text(yaml.safe_dump(catalogue))
    for name in ("sources.yml", "streams.yml"):
        shutil.copy(shipped_folder() / name, tmp_path)
    found = current_catalogue(Settings(pipeline=tmp_path))
    assert found is not None
    names = {feature.name for feature in found.features}
    assert {"user_travel_count_3h", "card_travel_sum_12h", "merchant_amt_sum_1h_window"} <= names


def test_prose_wraps_and_uses_the_field_s_words() -> None:
    problems = loaded(".ci/prose.py").problems
    assert (
        list(problems("It waits for the lock.\n| a table may " + "be wide " * 20 + "|\n```\nbeside\n```\n`landing`"))
        == []
    )
    found = list(problems("The process beside\n\n" + "word " * 25))
    assert [line for line, _ in found] == [1, 3]
    assert "background worker" in found[0][1]
