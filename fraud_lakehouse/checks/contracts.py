"""What every later layer relies on and SQL tests do not see: columns and types, positions, the quarantined share.

A broken contract blocks what is downstream. Column checks read metadata only; the others read two or three columns of
the newest files, at most about `recent_rows` rows, so that their cost does not grow with the lake.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.ingest.evolution import OWNER_PROPERTY
from fraud_lakehouse.sources.kafka.formats.json import TOMBSTONE
from fraud_lakehouse.storage.audit import RENAMED
from fraud_lakehouse.storage.lake import Lake, data_files, scan
from fraud_lakehouse.storage.schemas import COMMIT, frame_schema

RECENT_ROWS = 1_000_000
CARDS = "card_transactions"
REPLAYED = "_quarantined_at"
TEXT = "_text"
_INTEGER = ("long", "integer", "short", "byte")
_NUMBER = (*_INTEGER, "double", "float", "decimal")
_TEXT = ("string",)
_TIME = ("timestamp", "timestamp_ntz")
_UTC = ("timestamp",)
_Types = dict[str, tuple[str, ...]]
_CHANGE: _Types = {"_op": _TEXT, "_lsn": ("long",), "_seq": ("long",), "_committed_at": _UTC, "_ingested_at": _UTC}
_USERS: _Types = {"user_id": _INTEGER, "name": _TEXT, "email": _TEXT, "registration_date": _TIME}
_TRANSACTIONS: _Types = {"transaction_id": _INTEGER, "user_id": _INTEGER, "transaction_date": _TIME, "amount": _NUMBER}
_HISTORY: _Types = {"valid_from": _TIME, "valid_to": _TIME, "is_deleted": ("boolean",)}
_CARD: _Types = {
    "merchant": _TEXT,
    "category": _TEXT,
    "amt": ("double",),
    "trans_num": _TEXT,
    "is_fraud": ("long",),
    "user_id": ("long",),
}
_CARD_RECORD: _Types = _CARD | {
    "trans_date_trans_time": _TEXT,
    "cc_num": ("long",),
    "first": _TEXT,
    "last": _TEXT,
    "zipcode": _TEXT,
    "dob": _TEXT,
    "_topic": _TEXT,
    "_partition": ("integer",),
    "_offset": ("long",),
    "_timestamp": _UTC,
    "_ingested_at": _UTC,
    "_raw": ("binary",),
    "_error": _TEXT,
}
REQUIRED: dict[tuple[str, str], _Types] = {
    ("bronze", CARDS): _CARD_RECORD,
    ("bronze", "users"): _USERS | _CHANGE,
    ("bronze", "transactions"): _TRANSACTIONS | _CHANGE,
    ("silver", "users"): _USERS,
    ("silver", "transactions"): _TRANSACTIONS,
    ("silver", "users_history"): _USERS | _HISTORY,
    ("silver", "transactions_history"): _TRANSACTIONS | _HISTORY,
    ("silver", CARDS): _CARD | {"trans_date_trans_time": _TIME},
}
"""Columns that must exist, with the Delta types each may have; other bronze tables need the change columns."""


@dataclass(frozen=True)
class ContractResult:
    """What a contract check saw: sentences for each problem, and the numbers behind them. No problem is a pass."""

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


def check_columns(lake: Lake, layer: str, table: str) -> ContractResult:
    """Whether the required columns exist with a type they may have. A table that is not there yet passes.

    The numbers say how many rows have a value that its column cannot hold (`_text`, by the files' statistics).
    """
    name = f"{layer}/{table}"
    if not lake.exists(layer, table):
        return ContractResult("columns", name, numbers={"columns": 0})
    handle = lake.open(layer, table)
    types = {one.name: _type_name(one.type) for one in handle.schema().fields}
    required = REQUIRED.get((layer, table), _CHANGE if layer == "bronze" else {})
    problems = [f"column {column} is missing" for column in required if column not in types]
    problems += [
        f"column {column} is {types[column]}, expected {' or '.join(allowed)}"
        for column, allowed in required.items()
        if column in types and types[column].partition("(")[0] not in allowed
    ]
    numbers = {"columns": len(types), "required": len(required), **(_with_text(handle) if TEXT in types else {})}
    return ContractResult("columns", name, tuple(problems), numbers)


def check_quarantine(
    lake: Lake, limit: float = 0.05, least_rows: int = 100, recent_rows: int = RECENT_ROWS
) -> ContractResult:
    """Whether at most the share `limit` of the newest card records is in quarantine (unreadable, not replayed since).

    Fewer than `least_rows` records are too few to judge; tombstones are deletions and no bad records. The numbers name
    the five most frequent reasons.
    """
    name = f"bronze/{CARDS}"
    recent = _recent(lake, CARDS, ["_error", REPLAYED], recent_rows)
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
    problem = f"{bad} of the newest {rows} card records cannot be read ({share:.1%}, limit {limit:.1%})"
    top = dict(list(reasons.items())[:5])
    numbers = {"rows": rows, "quarantined": bad, "share": share, "limit": limit, "reasons": top}
    return ContractResult("quarantine", name, (problem,) if broken else (), numbers)


def check_positions(lake: Lake, table: str, recent_rows: int = RECENT_ROWS) -> ContractResult:
    """Whether no position is there twice, and no landed batch reaches back behind another, in a bronze table.

    Positions are (_topic, _partition, _offset) for card records and (_lsn, _seq) for change events. Only rows landed
    since the newest "accepted" in control/audit count: another source has positions of its own. Of card records that
    is said by the commit it names, where it names one.
    """
    name = f"bronze/{table}"
    lane = ["_topic", "_partition"] if table == CARDS else []
    replayed = [REPLAYED] if table == CARDS else []
    position = ["_offset"] if table == CARDS else ["_lsn", "_seq"]
    number = [COMMIT] if table == CARDS else []
    recent = _recent(lake, table, [*lane, *position, "_ingested_at", *number, *replayed], recent_rows)
    if recent is None:
        return ContractResult("positions", name, numbers={"rows": 0})
    if replayed:  # reaches back on purpose, see ingest/quarantine.py
        recent = recent.filter(pl.col(REPLAYED).is_null())
    if (since := _since_accepted(lake, table)) is not None:
        recent = recent.filter(since)
    # one number in the order of the positions: a transaction has far fewer than 2**40 changes
    at = pl.col("_offset") if table == CARDS else pl.col("_lsn").cast(pl.Int128) * (1 << 40) + pl.col("_seq")
    rows = recent.select(*lane, "_ingested_at", at=at)
    ranges = (
        rows.group_by(*lane, "_ingested_at")
        .agg(first=pl.col("at").min(), last=pl.col("at").max(), rows=pl.len(), positions=pl.col("at").n_unique())
        .sort(*lane, "first", "last")
        .with_columns(before=pl.col("last").shift().over(lane) if lane else pl.col("last").shift())
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
        problems.append(f"{overlapping.height} batches reach back behind another, landed at {', '.join(times)}")
        numbers["overlapping_batches"] = overlapping.height
    return ContractResult("positions", name, tuple(problems), numbers)


def check_bronze(lake: Lake, table: str, recent_rows: int = RECENT_ROWS) -> list[ContractResult]:
    """All contracts of a bronze table; a table whose columns are wrong is not looked into further."""
    columns = check_columns(lake, "bronze", table)
    if not columns.passed:
        return [columns]
    quarantine = [check_quarantine(lake, recent_rows=recent_rows)] if table == CARDS else []
    return [columns, check_positions(lake, table, recent_rows), *quarantine]


def _with_text(handle: DeltaTable) -> dict[str, int]:
    actions = pl.DataFrame(handle.get_add_actions(flatten=True))
    nulls = f"null_count.{TEXT}"
    if nulls not in actions.columns:  # no file, or none whose writer kept statistics
        return {}
    return {"rows_with_text": int((actions["num_records"] - actions[nulls]).sum())}


def _type_name(kind: object) -> str:
    return str(getattr(kind, "type", type(kind).__name__))


def _recent(lake: Lake, table: str, columns: list[str], rows: int) -> pl.LazyFrame | None:
    """These columns of the newest files that together hold at least `rows` rows; None without any file."""
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


def _since_accepted(lake: Lake, table: str) -> pl.Expr | None:
    """Which rows came after the newest acceptance of the table's source; None where there is none."""
    if not lake.exists("control", "audit"):
        return None
    audit = scan(lake.open("control", "audit"))
    owner = lake.open("bronze", table).metadata().configuration.get(OWNER_PROPERTY)
    source = owner or ("cards" if table == CARDS else "bank")  # tables of version 0.1 have no owner
    is_ours = pl.col("source").replace(RENAMED) == source
    accepted = audit.filter(is_ours, pl.col("event") == "accepted").select("at", "detail").collect()
    if accepted.is_empty():
        return None
    details = [json.loads(detail or "{}") for detail in accepted["detail"]]
    commits = [detail["commit"] for detail in details if "commit" in detail]
    return pl.col(COMMIT) > max(commits) if commits else pl.col("_ingested_at") > accepted["at"].max()
