"""Whether silver is the source, gold what bronze recomputes, and alerts what they were when they fired."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
from polars.testing import assert_frame_equal
from psycopg import sql

from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.runner import Transformer
from tests.soak.bronze_verdict import Verdict
from tests.soak.hostile_destination import HostileDestination
from tests.soak.shop import STREAM
from tests.soak.workload import Workload

VECTORS = "card_feature_vectors"
LATE = "card_transactions_late"
# when it was computed, and how often
_OF_A_RUN = ["scored_at", "fired_at", "known_at", "time_to_detect_ms", "version", "_commit"]
_OF_MOMENTS = ["time_to_detect"]  # of nothing else
_VERSIONED = {
    "user_trans_amt_last_360min_versions": ["trans_num"],
    "user_trans_amt_last_360min_windowed_versions": ["window_start", "user_id"],
    "user_trans_amt_last_360min_hop_versions": ["window_start", "user_id"],
    "user_trans_amt_last_360min_cumulate_versions": ["window_start", "window_end", "user_id"],
    "user_card_sessions_versions": ["window_start", "user_id"],
    VECTORS: ["trans_num"],
    "transaction_feature_vectors": ["transaction_id"],
    f"{STREAM}_vectors": ["id"],
}
"""Tables with a row for each version, by what a version is of: how many there are depends on the builds."""
_LEAST_TOO_LARGE = Decimal(10) ** 29
_ROUNDED = ["evidence"]  # text with sums of floats, whose last bits follow the order of addition


def judge_silver(lake: Lake, workload: Workload) -> Verdict:
    """Compare the replicas with the source's tables, row by row. Nobody may be writing."""
    result = Verdict()
    for table, columns in workload.tables.items():
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        statement = sql.SQL("select {} from {} order by 1").format(names, sql.Identifier(table))
        with psycopg.connect(workload.dsn) as connection:
            source = [tuple(map(_stored, row)) for row in connection.execute(statement)]
        name = workload.prefix + table
        replica = pl.read_delta(lake.uri("silver", name)).select(columns).sort(columns[0]).rows()
        result.checked += len(replica)
        if replica != source:
            missing, surplus = len(set(source) - set(replica)), len(set(replica) - set(source))
            reported = (
                f"silver/{name} is not the source: {missing} rows are missing or old, {surplus} should not be there"
            )
            reported += f", first {[*set(source) ^ set(replica)][:2]}"
            result.wrong(reported, lost=missing, doubled=surplus)
    return result


def compare_others(lake: Lake, dsn: str, tables: Mapping[str, str]) -> Verdict:
    """Compare the replicas of other tables of schema public with them, column by column in order.

    Args:
        tables: by their names in the source, those of the replicas.
    """
    result = Verdict()
    for table, name in tables.items():
        with psycopg.connect(dsn) as connection:
            source = connection.execute(sql.SQL("select * from {} order by 1").format(sql.Identifier(table))).fetchall()
        if not lake.exists("silver", name):
            result.wrong(f"table {table!r} is not replicated", lost=len(source))
            continue
        replica = pl.read_delta(lake.uri("silver", name))
        rows = replica.sort(replica.columns[0]).rows()
        result.checked += len(rows)
        if rows != source:
            missing, surplus = len(set(source) - set(rows)), len(set(rows) - set(source))
            result.wrong(f"silver/{name} is not table {table!r}", lost=missing, doubled=surplus)
    return result


def _stored(value: Any) -> Any:
    """A source's value as a replica's decimal(38, 9) can hold it; null where it cannot."""
    if not isinstance(value, Decimal):
        return value
    return value if value.is_finite() and value.copy_abs() < _LEAST_TOO_LARGE else None  # abs() would round


def judge_gold(lake: Lake, scratch: Path, pipeline: Path) -> Verdict:
    """Build silver and gold anew from a copy of bronze and compare every table; `scratch` is removed afterwards.

    Args:
        pipeline: the folder that declares what is in the lake.
    """
    result = Verdict()
    shutil.copytree(Path(lake.root) / "bronze", scratch / "bronze")
    fresh = Lake.at(scratch)
    settings = load_settings(lake=str(scratch), work=str(scratch / "_work"), pipeline=pipeline, alert_urls="")
    transformer = Transformer(settings)
    try:
        transformer.build_tier("all").raise_for_errors()
    finally:
        transformer.close()
    for layer in ("silver", "gold"):
        for table in sorted(set(fresh.tables(layer)) - set(_OF_MOMENTS)):
            recomputed, stored = _content(fresh, layer, table), _content(lake, layer, table)
            if table == VECTORS:  # told stays told: also what time has told, which no row tells of, least of all here
                until = recomputed["event_time"].max()
                stored = stored.clear() if until is None else stored.filter(pl.col("event_time") <= until)
                # and the vector of a payment read just before it was found late (docs/reference/which-rows-count.md)
                late = pl.read_delta(lake.uri("silver", LATE)) if lake.exists("silver", LATE) else None
                stored = stored if late is None else stored.join(late, "trans_num", "anti")
            _compare(result, f"{layer}/{table}", recomputed, stored)
    shutil.rmtree(scratch)
    return result


def _content(lake: Lake, layer: str, table: str) -> pl.DataFrame:
    rows = pl.read_delta(lake.uri(layer, table))
    if key := _VERSIONED.get(table):
        rows = rows.sort("version").unique(key, keep="last")
        rows = rows.filter(~pl.col("is_deleted")) if "is_deleted" in rows.columns else rows
    return rows.drop(_OF_A_RUN + _ROUNDED, strict=False)


def _compare(result: Verdict, name: str, recomputed: pl.DataFrame, stored: pl.DataFrame) -> None:
    result.checked += stored.height
    if recomputed.height != stored.height:
        lost, doubled = max(0, recomputed.height - stored.height), max(0, stored.height - recomputed.height)
        result.wrong(f"{name} has {stored.height} rows, recomputed {recomputed.height}", lost=lost, doubled=doubled)
        return
    keys = [column for column, kind in stored.schema.items() if not kind.is_float()]
    try:
        assert_frame_equal(
            stored.select(sorted(stored.columns)).sort(sorted(keys), nulls_last=True),
            recomputed.select(sorted(stored.columns)).sort(sorted(keys), nulls_last=True),
            rel_tol=1e-9,
            abs_tol=1e-9,
        )
    except (AssertionError, pl.exceptions.PolarsError) as error:
        result.wrong(f"{name} is not what bronze recomputes: {str(error)[:600]}", lost=1)


class AlertBook:
    """Every alert as it was when it was first seen."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    @staticmethod
    def silent(lake: Lake, received: list[dict[str, Any]]) -> set[str]:
        """Recorded alerts that the receiver has not got yet."""
        if not lake.exists("gold", "alerts"):
            return set()
        recorded = pl.read_delta(lake.uri("gold", "alerts"))["alert_id"].to_list()
        return set(recorded) - {str(message.get("alert_id")) for message in received}

    def judge(self, lake: Lake, received: list[dict[str, Any]]) -> Verdict:
        """No alert may be gone, twice, or other than it was; each must have been received at least once."""
        result = Verdict()
        if not lake.exists("gold", "alerts"):
            return result
        frame = pl.read_delta(lake.uri("gold", "alerts"))
        now = {row["alert_id"]: row for row in frame.iter_rows(named=True)}
        result.checked += frame.height
        if twice := frame.height - len(now):
            result.wrong(f"{twice} alerts are recorded twice", doubled=twice)
        if gone := self._seen.keys() - now.keys():
            result.wrong(f"{len(gone)} recorded alerts are gone", missing_alerts=len(gone))
        if other := [one for one, row in self._seen.items() if one in now and now[one] != row]:
            result.wrong(f"{len(other)} alerts changed after they fired, first {other[0]}", lost=len(other))
        arrived = {message.get("alert_id") for message in received}
        if silent := now.keys() - arrived:
            result.wrong(
                f"{len(silent)} alerts never reached the receiver, first {min(silent)}", missing_alerts=len(silent)
            )
        self._seen |= now
        return result


def check_deliveries(lake: Lake, hostile: HostileDestination) -> Verdict:
    """No alert is recorded as delivered to the hostile destination that it did not accept; none went elsewhere."""
    result = Verdict()
    if hostile.elsewhere:
        result.wrong(
            f"alerts followed redirects to {sorted(set(hostile.elsewhere))}", missing_alerts=len(hostile.elsewhere)
        )
    if not lake.exists("gold", "alert_deliveries"):
        return result
    rows = pl.read_delta(lake.uri("gold", "alert_deliveries")).filter(status="delivered")
    mine = set(rows.filter(pl.col("destination").str.contains(hostile.host, literal=True))["alert_id"])
    result.checked += len(mine)
    if invented := mine - set(hostile.accepted):
        result.wrong(
            f"{len(invented)} alerts are recorded as delivered but were not accepted", missing_alerts=len(invented)
        )
    return result
