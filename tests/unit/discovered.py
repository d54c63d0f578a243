"""Facts as discovery reads them, written shortly, and what a proposal for them declares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fraud_lakehouse.discovery.facts import Cluster, Column, Database, Kind, Reference, Sample, Table
from fraud_lakehouse.discovery.folder import file_texts, write_folder
from fraud_lakehouse.discovery.json_fields import topic_of
from fraud_lakehouse.discovery.naming import is_bare
from fraud_lakehouse.discovery.postgres import with_references
from fraud_lakehouse.discovery.proposal import Proposal, propose
from fraud_lakehouse.pipeline import Pipeline, load_pipeline

KINDS: dict[str, Kind] = {
    "int": "number",
    "numeric": "money",
    "text": "text",
    "timestamp": "time",
    "timestamptz": "zoned",
    "date": "time",
    "boolean": "flag",
    "json": "other",
}


def table(name: str, *columns: str, problem: str = "", schema: str = "public") -> Table:
    """A table from columns such as `id int key`, `note text null`, `user_id int -> users.id`, `user_id int 20/200`.

    `20/200` means: 20 values in 200 sampled rows.
    """
    found, key = [], []
    for text in columns:
        column, kind, *rest = text.split()
        filled = distinct = 0
        reference = None
        if "->" in rest:
            target, _, target_column = rest[rest.index("->") + 1].rpartition(".")
            reference = Reference(("public", target), target_column, enforced=True)
        for word in rest:
            if "/" in word:
                distinct, filled = map(int, word.split("/"))
        key += [column] if "key" in rest else []
        sample = Sample(filled, filled, distinct)
        found.append(
            Column(column, KINDS[kind], kind, "null" in rest, False, sample, reference, is_bare=is_bare(column))
        )
    return Table(schema, name, tuple(found), tuple(key), None, problem)


def database(*tables: Table, variable: str = "BANK_DSN", problems: Sequence[str] = ()) -> Database:
    ordered = [Table(**{**vars(one), "order": number}) for number, one in enumerate(tables)]
    return Database(variable, "bank", tuple(with_references(ordered)), tuple(problems))


def cluster(variable: str = "WIRES_SERVERS", **records: Sequence[Mapping[str, object] | bytes | None]) -> Cluster:
    topics = []
    for name, values in records.items():
        encoded = [json.dumps(value).encode() if isinstance(value, Mapping) else value for value in values]
        topics.append(topic_of(name.replace("__", "-"), 1, encoded))
    return Cluster(variable, "", tuple(topics))


def declared(folder: Path, proposal: Proposal) -> Pipeline:
    """The pipeline of a folder that the proposal was written into."""
    write_folder(folder, file_texts(proposal, folder, {}))
    return load_pipeline(folder, {})


def proposed(folder: Path, *facts: Database | Cluster) -> Pipeline:
    """What the proposal for these facts declares."""
    databases = [one for one in facts if isinstance(one, Database)]
    return declared(folder, propose(databases, [one for one in facts if isinstance(one, Cluster)]))


def entry(text: str, name: str) -> str:
    """The lines of an entry of a file, commented out or not."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.removeprefix("# ") == f"{name}:")
    prefix = "# " if lines[start].startswith("# ") else ""
    found = [lines[start].removeprefix(prefix)]
    for line in lines[start + 1 :]:
        if not line.startswith(f"{prefix}  "):
            break
        found.append(line.removeprefix(prefix))
    return "\n".join(found)
