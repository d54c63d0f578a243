"""Pipeline folders for tests: a database and a topic, a stream of each."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).parents[1] / "pipeline"
SOURCES = """\
shop:
  type: postgres
  dsn_env: SHOP_DSN
  tables: [orders, users, crm.users]
wires:
  type: kafka
  servers_env: WIRES_SERVERS
  topics:
    - topic: wires
      table: wires
      fields:
        id: string
        at: timestamp
        amt: "decimal(18, 2)"
        cur: string
        fraud: boolean
        sender_id: {path: sender.id, type: string}
"""
STREAMS = """\
orders:
  from: orders
  kind: changes
  id: id
  time: placed_at
  amount: total
  entities: {user: user_id}
wires:
  from: wires
  kind: events
  id: id
  time: at
  amount: amt
  label: fraud
  entities:
    sender: sender_id
    pair: [sender_id, cur]
"""


class _Indented(yaml.SafeDumper):
    """Indents lists as people write them, so that tests may append to them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _of(entry: dict[str, Any], key: str, kept: Sequence[str]) -> dict[str, Any] | None:
    """An entry of features or a rule for these streams alone; None if it is for others."""
    named = entry[key] if isinstance(entry[key], list) else [entry[key]]
    streams = [name for name in named if name in (*kept, "all")]
    if not streams:
        return None
    found = entry | {key: streams if isinstance(entry[key], list) else entry[key]}
    return found | ({"except": [name for name in entry["except"] if name in kept]} if "except" in entry else {})


@functools.cache
def bank_and_cards() -> Path:
    """The shipped declarations of the bank and the cards alone: further sources would only cost every test time."""
    folder = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-pipeline-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sources, streams, features = (
        yaml.safe_load((SHIPPED / f"{name}.yml").read_text()) for name in ("sources", "streams", "features")
    )
    kept = ["bank_payments", "card_payments"]
    features["features"] = [found for entry in features["features"] if (found := _of(entry, "stream", kept))]
    content = {
        "sources": {name: sources[name] for name in ("bank", "cards")},
        "streams": {name: streams[name] for name in kept},
        "features": features,
    }
    shutil.copy(SHIPPED / "labels.yml", folder)
    (folder / "rules").mkdir()
    for path in (SHIPPED / "rules").glob("*.yml"):
        text = path.read_text()
        if rule := _of({**yaml.safe_load(text)}, "streams", kept):
            for key in ("streams", "except"):  # the rest stays as it is written: YAML reads the key `on` as true
                text = re.sub(rf"(?m)^{key}: \[.*\]", f"{key}: [{', '.join(rule.get(key, []))}]", text)
            (folder / "rules" / path.name).write_text(text)
    for name, declared in content.items():
        (folder / f"{name}.yml").write_text(yaml.dump(declared, Dumper=_Indented, sort_keys=False, width=1_000))
    return folder


def write(folder: Path, sources: str | bytes = SOURCES, streams: str | bytes = STREAMS) -> Path:
    for name, content in (("sources.yml", sources), ("streams.yml", streams)):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)
