"""What `fraud-lakehouse status` shows: sources, layers, alerts and known problems, as data and as text.

The JSON object (keys may be added, none is removed):
  lake: str; at: ISO time; message: str or null (e.g. that there is no lake yet)
  sources: [{name, type: postgres or kafka, update_delay: seconds between reads, position, lag_rows, lag_bytes,
    lag_seconds, last_batch: {rows, landed_at, seconds} or null, error}]
    position: PostgreSQL an LSN such as "0/16B3748", Kafka {partition: next offset}, null before the first ingestion;
    lag_rows: Kafka only; lag_bytes: PostgreSQL only, WAL beyond the position; lag_seconds: 0 when nothing is behind,
    else the age of the newest ingested row; error: why the source did not respond, else null;
    PostgreSQL also has retained_bytes (WAL retained on the server for the slot), wal_status and slot_health: {level:
    ok, warning or error, reasons, used_share, limit_bytes, safe_bytes, inactive_seconds, ...} (checks/slot_health.py),
    and left_out: [{table, problem, fix}], the ineligible tables among those requested;
    absent: true for an optional topic that does not exist, which is no error;
    Kafka also has open_transactions: [{partition, last_stable_offset, high_watermark, waiting: records between them,
    open_seconds: null if records have no time, hanging: open for too long, problem, fix}]
  layers: {bronze|silver|gold: [{table, rows, version, freshness_seconds, error}]}: seconds since rows last changed
  alerts: {open, by_rule, by_severity, by_stream, undelivered, destinations: [{destination, pending, failures, error}]}
    undelivered: alerts not yet delivered to at least one configured destination; failures: consecutive, up to now
  outdated: [{table, features, message}]: gold tables with features that another definition, or none, computed in some
    rows (the message gives the command that recomputes them)
  quarantined: card records that could not be read and were not replayed (`fraud-lakehouse quarantine list`)
  live: null if no live cycle ever ran, else {running, lease: {pid, age: of its heartbeat in seconds} of the process
    that holds the live cycle's lease or null, age_seconds: since its summary was written, and the summary:
    pid, since, at, cycles, rows, alerts, errors, seconds: {time: {count, p50, p95, p99, max}} of the newest 1,000,
    histograms: {step: {upper bound: observations up to it}} since its start (steps: capture, build, check, deliver,
    follow; total: commit to recorded alert), behind: {source: {seconds: age of the oldest row known not to be scored,
    rows: ingested and not scored, source_rows, source_bytes, retained_bytes: not ingested, and retained for the slot,
    away_since: ISO time of its last response if that is too long ago, else null}}, problems: {part: its current
    problem; a part is a source, "model <name>" or a kind of work}}
  rules: {name: problem}: rules of pipeline/rules that are not evaluated because of a problem
  transfers: null while there are none, else {transfers, unidentified, judged, refused, pending, validator: whether one
    is set, problem: why it gave no answer the last time or null, failures: {kind: number}, at: ISO time of these two}
  problems: [{at, source, event, detail}]: gaps in control/audit that capture has not resumed from
The report only reads: it changes nothing in the lake or at a source.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.alerts.deliveries import TABLE as DELIVERIES
from fraud_lakehouse.alerts.destination import destinations
from fraud_lakehouse.alerts.outbox import ALERTS, Outbox
from fraud_lakehouse.checks.lag import live_state
from fraud_lakehouse.checks.open_transactions import assess as assess_transactions
from fraud_lakehouse.checks.slot_health import assess
from fraud_lakehouse.detection.validator import transfers_status
from fraud_lakehouse.ingest.ineligible_tables import ineligible_tables
from fraud_lakehouse.ingest.kafka import is_awaited
from fraud_lakehouse.ingest.operator_actions import awaited_position
from fraud_lakehouse.ingest.postgres import open_capture
from fraud_lakehouse.ingest.quarantine import open_count
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import SourceConfig, configured_sources, declared_topics
from fraud_lakehouse.sources.kafka.capture import KafkaCapture
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.topic import TopicMissingError
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.storage.audit import IDENTITY_EVENTS, RENAMED
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.transform.definitions import Outdated, outdated_features
from fraud_lakehouse.transform.project import current_definitions, current_rules

__all__ = ["SourceStatus", "Status", "collect", "to_json"]

SOURCE_SECONDS = 12.0  # the captures' own limits are shorter and give more detail
_NO_ROWS_CHANGED = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "ADD COLUMN", "FSCK")
_Table = tuple[str, str]


@dataclass
class SourceStatus:
    """One configured source; the fields are described at the top of this module."""

    name: str
    type: str
    position: str | dict[str, int] | None = None
    lag_rows: int | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    last_batch: dict[str, Any] | None = None
    error: str | None = None
    retained_bytes: int | None = None
    wal_status: str | None = None
    slot_health: dict[str, Any] | None = None
    left_out: list[dict[str, str]] = field(default_factory=list)
    open_transactions: list[dict[str, Any]] = field(default_factory=list)
    update_delay: float = 0.0
    absent: bool = False


@dataclass
class Status:
    """The whole report; the fields are described at the top of this module."""

    lake: str
    at: datetime
    message: str | None = None
    sources: list[SourceStatus] = field(default_factory=list)
    layers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    alerts: dict[str, Any] = field(default_factory=dict)
    outdated: list[dict[str, Any]] = field(default_factory=list)
    quarantined: int = 0
    live: dict[str, Any] | None = None
    rules: dict[str, str] = field(default_factory=dict)
    transfers: dict[str, Any] | None = None
    problems: list[dict[str, Any]] = field(default_factory=list)


def collect(settings: Settings) -> Status:
    """Query the lake and the sources in parallel.

    Raises:
        SettingsError: FRAUD_ALERT_URLS or a source's setting has a wrong value.
        TransformError: the catalogue of features is invalid; says where.
    """
    lake = Lake.at(settings.lake)
    status = Status(lake.root, datetime.now(UTC))
    ingested = _Ingested(lake)
    questions: list[tuple[SourceStatus, Callable[[SourceStatus], None]]] = []
    for config in configured_sources(settings).values():
        kind = "postgres" if isinstance(config, PostgresConfig) else "kafka"
        found = SourceStatus(config.name, kind, update_delay=config.update_delay)
        questions.append((found, partial(_ask, config, settings, ingested)))
    requested = [threading.Thread(target=_answer, args=question, daemon=True) for question in questions]
    for thread in requested:
        thread.start()
    for layer in ("bronze", "silver", "gold"):
        status.layers[layer] = [_table(lake, layer, name, status.at) for name in lake.tables(layer)]
    status.alerts = _alerts(lake, settings)
    status.outdated = _outdated(lake, settings)
    status.rules = current_rules(settings).problems
    topics = [("bronze", one.table) for one in declared_topics(settings)]
    status.quarantined = sum(open_count(lake.open(*table)) for table in topics if lake.exists(*table))
    status.transfers = transfers_status(settings, lake)
    state = live_state(settings.work_dir)
    if state is not None:
        lease = asdict(state.holder) if state.holder else None
        status.live = {"running": state.running, "lease": lease, "age_seconds": state.age, **state.summary}
    status.problems = ingested.problems()
    if not any(status.layers.values()):
        status.message = f"there is no lake at {lake.root} yet; `fraud-lakehouse catch-up` or `live` creates one"
    deadline = time.monotonic() + SOURCE_SECONDS
    for thread, (found, _) in zip(requested, questions, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        late = SourceStatus(found.name, found.type, update_delay=found.update_delay)
        late.error = f"no answer within {SOURCE_SECONDS:.0f} s"
        status.sources.append(late if thread.is_alive() else found)
    return status


def to_json(status: Status) -> str:
    """The report as the JSON object described at the top of this module."""
    return json.dumps(asdict(status), default=lambda value: value.isoformat(), indent=2)


class _Ingested:
    """What control/batches and control/audit record about a source."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.batches = lake.open("control", "batches") if lake.exists("control", "batches") else None
        audit = _frame(lake, ("control", "audit"), ["at", "source", "event", "detail"])
        self.audit = audit.sort("at").to_dicts() if audit.height else []

    def identity(self, source: str, scope: str = "") -> str | None:
        """The app_id prefix of the source that was registered or accepted last."""
        for row in reversed(self.audit):
            if RENAMED.get(row["source"], row["source"]) == source and row["event"] in IDENTITY_EVENTS:
                detail = json.loads(row["detail"] or "{}")
                if detail.get("scope", "") == scope:
                    return str(detail["identity"])
        return None

    def app_ids(self, prefix: str) -> list[str]:
        """The app_ids with this prefix that have ingested batches."""
        if self.batches is None:
            return []
        rows = scan(self.batches).filter(pl.col("app_id").str.starts_with(prefix))
        return rows.select(pl.col("app_id").unique().sort()).collect()["app_id"].to_list()

    def last_batch(self, source: str) -> dict[str, Any] | None:
        """Rows, time and duration of the newest batch, with its newest commit time and highest position."""
        if self.batches is None:
            return None
        rows = scan(self.batches).filter(pl.col("source").replace(RENAMED) == source)
        newest = rows.filter(pl.col("landed_at") == pl.col("landed_at").max()).collect()
        if newest.is_empty():
            return None
        columns = [pl.col("rows").sum(), pl.col("landed_at", "seconds", "newest_committed_at", "to_position").max()]
        return newest.select(columns).to_dicts()[0]

    def problems(self) -> list[dict[str, Any]]:
        """The newest audit row of each source whose capture stopped."""
        last = {RENAMED.get(row["source"], row["source"]): row for row in self.audit}
        found = [row | {"detail": json.loads(row["detail"] or "{}")} for row in last.values()]
        return [row | {"at": row["at"].isoformat()} for row in found if row["detail"].get("gap")]


def _answer(found: SourceStatus, request: Callable[[SourceStatus], None]) -> None:
    try:
        request(found)
    except Exception as error:  # noqa: BLE001 - status says what is wrong, whatever it is
        found.error = str(error) or type(error).__name__


def _ask(config: SourceConfig, settings: Settings, ingested: _Ingested, found: SourceStatus) -> None:
    if isinstance(config, PostgresConfig):
        with config.named():
            capture = open_capture(settings, ingested.lake, config)
            _query_postgres(found, capture, ingested, settings.slot_retained_bytes)
    else:
        _query_kafka(found, KafkaCapture(settings, config), config, settings, ingested)


def _query_postgres(found: SourceStatus, capture: PostgresCapture, ingested: _Ingested, allowed_bytes: int) -> None:
    name = capture.config.name
    identity, last = ingested.identity(name), ingested.last_batch(name)
    position = ingested.batches.transaction_version(identity) if ingested.batches and identity else None
    found.position = f"{position >> 32:X}/{position & 0xFFFFFFFF:X}" if position is not None else None
    found.last_batch = _shown(last)
    with capture:
        lag, retention = capture.lag(), capture.retention()
        capture.tables()
    found.left_out = [asdict(one) for one in ineligible_tables(ingested.lake, capture)]
    awaited = awaited_position(ingested.lake, name, identity) if identity and not retention.exists else None
    if retention.exists or awaited is not None:
        found.slot_health = assess(retention, allowed_bytes, awaited).evidence()
    found.lag_bytes = lag.bytes_behind if position is None else max(0, lag.current_lsn - position)
    found.retained_bytes, found.wal_status = lag.retained_bytes, lag.wal_status
    if position is not None and last is not None and ingested.batches is not None:
        # after the last batch's position there was only WAL of other tables, of the time it was committed
        idle = position > last["to_position"]
        since = _changed_at(ingested.batches) if idle else last["newest_committed_at"]
        found.lag_seconds = _age(since) if found.lag_bytes else 0.0


def _query_kafka(
    found: SourceStatus, capture: KafkaCapture, topic: TopicConfig, settings: Settings, ingested: _Ingested
) -> None:
    identity, last = ingested.identity(topic.name, topic.topic), ingested.last_batch(topic.name)
    place = ("bronze", topic.table)
    table = ingested.lake.open(*place) if identity and ingested.lake.exists(*place) else None
    found.last_batch = _shown(last)

    def positions(app_ids: Sequence[str]) -> dict[str, int | None]:
        at = {app_id: table.transaction_version(app_id) if table else None for app_id in app_ids}
        found.position = {app_id.rpartition(":")[2]: one for app_id, one in at.items() if one is not None} or None
        return at

    positions(ingested.app_ids(f"{identity}:"))
    with capture:
        try:
            app_ids = capture.partitions()
        except TopicMissingError:
            if not is_awaited(ingested.lake, topic):
                raise
            found.absent = True
            return
        found.lag_rows = capture.lag(positions(app_ids)).rows
        transactions = assess_transactions(
            capture.open_transactions(), settings.kafka_transaction_seconds, topic.servers or ""
        )
    found.open_transactions = [one.evidence() for one in transactions]
    found.lag_seconds = 0.0 if found.lag_rows == 0 else _age(last["newest_committed_at"]) if last else None


def _shown(last: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {name: last[name] for name in ("rows", "landed_at", "seconds")} if last else None


def _table(lake: Lake, layer: str, name: str, now: datetime) -> dict[str, Any]:
    row: dict[str, Any] = {"table": name, "rows": None, "version": None, "freshness_seconds": None, "error": None}
    try:
        handle = lake.open(layer, name)
        actions = pl.DataFrame(handle.get_add_actions(flatten=True))
        row |= {"rows": int(actions["num_records"].sum()) if actions.height else 0, "version": handle.version()}
        row["freshness_seconds"] = _age(_changed_at(handle), now)
    except Exception as error:  # noqa: BLE001 - one unreadable table must not hide the others
        row["error"] = str(error).splitlines()[0]
    return row


def _outdated(lake: Lake, settings: Settings) -> list[dict[str, Any]]:
    """Features with rows of another definition."""
    found: list[Outdated] = []
    for table, numbers in current_definitions(settings).items():
        with suppress(Exception):  # one that cannot be read is reported in its layer
            found += outdated_features(lake, {table: numbers})
    return [{"table": one.table, "features": list(one.features), "message": str(one)} for one in found]


def _changed_at(handle: DeltaTable) -> datetime | None:
    """When rows were last committed; compaction and similar operations do not count."""
    for entry in handle.history(20):
        if entry.get("operation") not in _NO_ROWS_CHANGED:
            return datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
    return None


def _alerts(lake: Lake, settings: Settings) -> dict[str, Any]:
    alerts = _frame(lake, ALERTS, ["rule", "severity", "stream"])
    places = destinations(settings)
    outbox = Outbox(lake, [one.name for one in places])
    outbox.refresh()
    failed = _frame(lake, DELIVERIES, ["destination", "attempted_at", "error"]).drop_nulls("error").sort("attempted_at")
    errors = dict(failed.select("destination", "error").iter_rows())
    pending = [queue.pending["alert_id"] for queue in outbox.queues.values() if queue.pending.height]
    return {
        "open": alerts.height,
        "by_rule": _counts(alerts, "rule"),
        "by_severity": _counts(alerts, "severity"),
        "by_stream": _counts(alerts.drop_nulls("stream"), "stream"),
        "undelivered": pl.concat(pending).n_unique() if pending else 0,
        "destinations": [
            {
                "destination": name,
                "pending": queue.pending.height,
                "failures": queue.failures,
                "error": errors.get(name) if queue.failures else None,
            }
            for name, queue in outbox.queues.items()
        ],
    }


def _counts(alerts: pl.DataFrame, column: str) -> dict[str, int]:
    counted = alerts.group_by(column).len().sort(["len", column], descending=[True, False])
    return {str(name): count for name, count in counted.iter_rows()}


def _frame(lake: Lake, table: _Table, columns: list[str]) -> pl.DataFrame:
    """These columns of a table, null if it lacks one; no rows if the table does not exist."""
    if not lake.exists(*table):
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    rows = scan(lake.open(*table))
    present = rows.collect_schema().names()
    missing = [pl.lit(None, pl.String).alias(name) for name in columns if name not in present]
    return rows.with_columns(missing).select(columns).collect()


def _age(moment: datetime | None, now: datetime | None = None) -> float | None:
    return None if moment is None else round(max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds()), 3)
