"""Pipeline folders for tests: a database and a topic, a stream of each."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

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


@functools.cache
def bank_and_cards() -> Path:
    """The shipped declarations of the bank and the cards alone: further sources would only cost every test time."""
    folder = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-pipeline-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sources, streams, features = (
        yaml.safe_load((SHIPPED / f"{name}.yml").read_text()) for name in ("sources", "streams", "features")
    )
    left_out = streams.keys() - {"bank_payments", "card_payments"}
    for entry in features["features"]:
        if "except" in entry:
            entry["except"] = [name for name in entry["except"] if name not in left_out]
    features["features"] = [entry for entry in features["features"] if entry["stream"] not in left_out]
    content = {
        "sources": {name: sources[name] for name in ("bank", "cards")},
        "streams": {name: declared for name, declared in streams.items() if name not in left_out},
        "features": features,
    }
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
