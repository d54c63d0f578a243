"""Contracts that later layers rely on and SQL tests do not cover: columns and types, positions, quarantined share.

A broken contract blocks what is downstream. Column checks read only metadata; the others read two or three columns of
the newest files, at most about `recent_rows` rows, so that their cost does not grow with the lake.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import polars as pl
import yaml
from deltalake import DeltaTable

from fraud_lakehouse.ingest.evolution import OWNER_PROPERTY
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.formats.json import TOMBSTONE
from fraud_lakehouse.sources.kafka.records import schema_of
from fraud_lakehouse.storage.audit import RENAMED
from fraud_lakehouse.storage.lake import Lake, data_files, scan
from fraud_lakehouse.storage.schemas import COMMIT, UTC_MICROSECONDS, delta_types, frame_schema
from fraud_lakehouse.transform.captured import shipped_tables
from fraud_lakehouse.transform.project import shipped_project

RECENT_ROWS = 1_000_000
REPLAYED = "_quarantined_at"
TEXT = "_text"
_INTEGER = ("long", "integer", "short", "byte")
_NUMBER = (*_INTEGER, "double", "float", "decimal")
_TEXT = ("string",)
_TIME = ("timestamp", "timestamp_ntz")
_UTC = ("timestamp",)
_Types = dict[str, tuple[str, ...]]
_CHANGE: _Types = {"_op": _TEXT, "_lsn": ("long",), "_seq": ("long",), "_committed_at": _UTC, "_ingested_at": _UTC}
_HISTORY: _Types = {"valid_from": _TIME, "valid_to": _TIME, "is_deleted": ("boolean",)}
_ALIKE = {
    re.compile("smallint|integer|bigint"): _INTEGER,
    re.compile(r"float|double|decimal\(.*"): _NUMBER,
    re.compile("varchar"): _TEXT,
    re.compile("timestamp|timestamptz"): _TIME,
    re.compile("date"): ("date",),
    re.compile("boolean"): ("boolean",),
}
"""By a DuckDB type that the dbt project declares, the Delta types that are accepted too."""


@lru_cache(maxsize=1)
def required_columns() -> Mapping[tuple[str, str], _Types]:
    """By layer and table, the columns that must exist, with the accepted Delta types: what the dbt project declares.

    In bronze, these are database tables with shipped models; other tables need the change columns, and topics' tables
    their declared fields. In silver, the columns that come from those tables.
    """
    project = shipped_project()
    found: dict[tuple[str, str], _Types] = {}
    for name, table in shipped_tables(project).items():
        own = {column: _alike(kind) for column, kind in table.columns.items()}
        if table.key:
            found["bronze", name] = own | _CHANGE
        for model, further in ((name, {}), (f"{name}_history", _HISTORY)):
            path = project / "models" / "silver" / f"{model}.yml"
            described = yaml.safe_load(path.read_text())["models"] if path.is_file() else []
            columns = [one for entry in described if entry["name"] == model for one in entry["columns"]]
            kinds = {one["name"]: _alike(one["data_type"]) for one in columns if one["name"] in own}
            if kinds:
                found["silver", model] = kinds | further
    return found


def _alike(kind: str) -> tuple[str, ...]:
    return next((types for declared, types in _ALIKE.items() if declared.fullmatch(kind)), (kind,))


@dataclass(frozen=True)
class ContractResult:
    """The result of a contract check: a sentence for each problem, and figures. No problem is a pass."""

    contract: str
    table: str
    problems: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the contract holds."""
        return not self.problems

    def evidence(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self) | {"problems": list(self.problems)}


def check_columns(
    lake: Lake, layer: str, table: str, topic: TopicConfig | None = None, *, is_declared: bool = True
) -> ContractResult:
    """Whether the required columns exist with an accepted type. A table that does not exist yet passes.

    Args:
        topic: the topic whose bronze table it is.
        is_declared: whether it is the table that models are shipped for, not another one of its name.

    The figures count rows with a value that its column cannot represent (`_text`, from the files' statistics).
    """
    name = f"{layer}/{table}"
    if not lake.exists(layer, table):
        return ContractResult("columns", name, numbers={"columns": 0})
    handle = lake.open(layer, table)
    types = {one.name: _type_name(one.type) for one in handle.schema().fields}
    required: _Types
    if topic is not None:
        required = {column: (kind,) for column, kind in delta_types(_topic_schema(topic)).items()}
    else:
        required = required_columns().get((layer, table), {}) if is_declared else {}
        required = required or (_CHANGE if layer == "bronze" else {})
    problems = [f"column {column} is missing" for column in required if column not in types]
    problems += [
        f"column {column} is {types[column]}, expected {' or '.join(allowed)}"
        for column, allowed in required.items()
        if column in types and not {types[column], types[column].partition("(")[0]} & set(allowed)
    ]
    numbers = {"columns": len(types), "required": len(required), **(_with_text(handle) if TEXT in types else {})}
    return ContractResult("columns", name, tuple(problems), numbers)


def check_quarantine(
    lake: Lake, topic: TopicConfig, limit: float = 0.05, least_rows: int = 100, recent_rows: int = RECENT_ROWS
) -> ContractResult:
    """Whether at most the share `limit` of a topic's newest records is in quarantine (unreadable, not replayed since).

    Fewer than `least_rows` records always pass. Tombstones are deletions, not bad records. The figures name the five
    most frequent reasons.
    """
    name = f"bronze/{topic.table}"
    recent = _recent(lake, topic.table, ["_error", REPLAYED], recent_rows)
    if recent is None:
        return ContractResult("quarantine", name, numbers={"rows": 0, "quarantined": 0, "limit": limit})
    error = pl.when(pl.col("_error") != TOMBSTONE).then(pl.col("_error"))
    kinds = recent.group_by(error, pl.col(REPLAYED).is_not_null().alias("replayed")).agg(pl.len().alias("rows"))
    counted = kinds.collect().sort("rows", "_error", descending=True)
    replayed = int(counted.filter("replayed")["rows"].sum())
    rows = int(counted["rows"].sum()) - replayed
    reasons = {error[:200]: count for error, _, count in counted.drop_nulls("_error").iter_rows()}
    bad = max(sum(reasons.values()) - replayed, 0)
    share = bad / rows if rows else 0.0
    broken = rows >= least_rows and share > limit
    problem = (
        f"{bad} of the newest {rows} records of topic {topic.topic} cannot be read ({share:.1%}, limit {limit:.1%})"
    )
    top = dict(list(reasons.items())[:5])
    numbers = {"rows": rows, "quarantined": bad, "share": share, "limit": limit, "reasons": top}
    return ContractResult("quarantine", name, (problem,) if broken else (), numbers)


def check_positions(
    lake: Lake, table: str, topic: TopicConfig | None = None, recent_rows: int = RECENT_ROWS
) -> ContractResult:
    """Whether a bronze table has no duplicate positions, and no batch that starts before the end of the one before.

    Positions are (_topic, _partition, _offset) for records of a topic and (_lsn, _seq) for change events. Only rows
    ingested since the newest "accepted" in control/audit count: another source has positions of its own. For a topic,
    the commit named there decides, if one is named.

    Args:
        topic: the topic whose records the table has; None: a table of PostgreSQL.
    """
    name = f"bronze/{table}"
    tier = ["_topic", "_partition"] if topic else []
    replayed = [REPLAYED] if topic else []
    position = ["_offset"] if topic else ["_lsn", "_seq"]
    number = [COMMIT] if topic else []
    recent = _recent(lake, table, [*tier, *position, "_ingested_at", *number, *replayed], recent_rows)
    if recent is None:
        return ContractResult("positions", name, numbers={"rows": 0})
    if replayed:  # goes back on purpose, see ingest/quarantine.py
        recent = recent.filter(pl.col(REPLAYED).is_null())
    if (since := _since_accepted(lake, table, topic)) is not None:
        recent = recent.filter(since)
    # one number in the order of positions: a transaction has far fewer than 2**40 changes
    at = pl.col("_offset") if topic else pl.col("_lsn").cast(pl.Int128) * (1 << 40) + pl.col("_seq")
    rows = recent.select(*tier, "_ingested_at", at=at)
    ranges = (
        rows.group_by(*tier, "_ingested_at")
        .agg(first=pl.col("at").min(), last=pl.col("at").max(), rows=pl.len(), positions=pl.col("at").n_unique())
        .sort(*tier, "first", "last")
        .with_columns(before=pl.col("last").shift().over(tier) if tier else pl.col("last").shift())
        .collect()
    )
    doubled = int((ranges["rows"] - ranges["positions"]).sum()) if ranges.height else 0
    overlapping = ranges.filter(pl.col("first") <= pl.col("before"))
    numbers = {"rows": int(ranges["rows"].sum()), "batches": ranges.height, "doubled_in_a_batch": doubled}
    problems = []
    if doubled:
        problems.append(f"{doubled} rows repeat a position ({', '.join(position)}) of their own batch")
    if overlapping.height:
        times = [str(one) for one in overlapping["_ingested_at"].head(3)]
        problems.append(f"{overlapping.height} batches overlap an earlier one, ingested at {', '.join(times)}")
        numbers["overlapping_batches"] = overlapping.height
    return ContractResult("positions", name, tuple(problems), numbers)


def check_bronze(
    lake: Lake,
    table: str,
    topic: TopicConfig | None = None,
    recent_rows: int = RECENT_ROWS,
    *,
    is_declared: bool = True,
) -> list[ContractResult]:
    """All contracts of a bronze table; if its columns are wrong, no other contract is checked.

    Args:
        topic: the topic whose records the table has; None: a table of PostgreSQL.
    """
    columns = check_columns(lake, "bronze", table, topic, is_declared=is_declared)
    if not columns.passed:
        return [columns]
    quarantine = [check_quarantine(lake, topic, recent_rows=recent_rows)] if topic else []
    return [columns, check_positions(lake, table, topic, recent_rows), *quarantine]


def _topic_schema(topic: TopicConfig) -> dict[str, pl.DataType]:
    """The columns of a topic's table from its first rows on; columns added by later versions may be missing."""
    added = ("_extra", "_key", "_headers", "_quarantined_at")
    schema = {name: kind for name, kind in schema_of(topic).items() if name not in added}
    return schema | {"_ingested_at": UTC_MICROSECONDS}


def _with_text(handle: DeltaTable) -> dict[str, int]:
    actions = pl.DataFrame(handle.get_add_actions(flatten=True))
    nulls = f"null_count.{TEXT}"
    if nulls not in actions.columns:  # no files, or none with statistics
        return {}
    return {"rows_with_text": int((actions["num_records"] - actions[nulls]).sum())}


def _type_name(kind: object) -> str:
    return str(getattr(kind, "type", type(kind).__name__))


def _recent(lake: Lake, table: str, columns: list[str], rows: int) -> pl.LazyFrame | None:
    """These columns of the newest files that together have at least `rows` rows; None without any file."""
    if not lake.exists("bronze", table):
        return None
    handle = lake.open("bronze", table)
    paths = _newest_files(handle, rows)
    if not paths:
        return None
    schema = frame_schema(handle.schema())
    found = pl.scan_parquet(paths, schema=schema, missing_columns="insert", extra_columns="ignore")
    return found.select(pl.col(name) if name in schema else pl.lit(None).alias(name) for name in columns)


def _newest_files(handle: DeltaTable, rows: int) -> list[str]:
    actions = pl.DataFrame(handle.get_add_actions(flatten=True))
    if actions.is_empty():
        return []
    age = "max._ingested_at" if "max._ingested_at" in actions.columns else "modification_time"
    newest = actions.sort(age, descending=True, nulls_last=True)
    wanted = newest.filter(newest["num_records"].fill_null(0).cum_sum().shift(1, fill_value=0) < rows)["path"]
    names = {path.rpartition("/")[2] for path in wanted}
    return [uri for uri in data_files(handle) if uri.rpartition("/")[2] in names]


def _since_accepted(lake: Lake, table: str, topic: TopicConfig | None) -> pl.Expr | None:
    """A filter for rows after the newest acceptance of the table's source; None if there is none."""
    if not lake.exists("control", "audit"):
        return None
    if topic is not None:
        names = [topic.name, *topic.aliases]
    else:
        owner = lake.open("bronze", table).metadata().configuration.get(OWNER_PROPERTY, RENAMED["postgres"])
        names = [owner, *(old for old, new in RENAMED.items() if new == owner)]
    audit = scan(lake.open("control", "audit")).filter(pl.col("source").is_in(names), pl.col("event") == "accepted")
    rows = audit.select("source", "at", "detail").collect().iter_rows()
    found = [(name, at, json.loads(detail or "{}")) for name, at, detail in rows]
    if topic:  # several topics may have had the alias
        own, scope = topic.name, topic.topic
        found = [row for row in found if row[0] == own or row[2].get("scope", scope) == scope]
    if not found:
        return None
    commits: list[int] = [detail["commit"] for _, _, detail in found if "commit" in detail]
    return pl.col(COMMIT) > max(commits) if commits else pl.col("_ingested_at") > pl.lit(max(at for _, at, _ in found))
