"""The status report as text for a terminal; what the figures mean is said in status.py."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fraud_lakehouse.cli.attention import attention

if TYPE_CHECKING:
    from rich.text import Text

    from fraud_lakehouse.checks.status import SourceStatus, Status


ATTENTION, WELL = "Needs attention:", "Nothing needs attention."
_COLOURS = (
    (r"(?m)^\S.*$", "bold"),
    (rf"(?m)^{re.escape(WELL)}$", "bold green"),
    (rf"(?m)^{ATTENTION}\n(?:  .*\n)*", "bold yellow"),
    (r"(?m)^  (?:ERROR |hanging transaction: |slot error: |problem of ).*$", "red"),
    (r"(?m)^  (?:left out |slot warning: ).*$", "yellow"),
    (r"(?m), failing \(.*$", "red"),
    (r"(?m)^Live cycle runs", "bold green"),
    (r"(?m)^Problems:\n(?:  .*\n?)*", "red"),
)
"""What stands out on a terminal, by pattern; a later one wins."""


def coloured(text: str) -> Text:
    """A rendered report with its colours, which rich leaves out where they are not wanted."""
    from rich.text import Text

    found = Text(text)
    for pattern, style in _COLOURS:
        found.highlight_regex(pattern, style)
    return found


def render(status: Status) -> str:
    """The report as text: what needs attention first, then each part."""
    lines = [f"Lake {status.lake}, {status.at:%F %T} UTC"]
    lines += [status.message] if status.message else []
    wrong = attention(status)
    lines += [ATTENTION, *(f"  {line}" for line in wrong)] if wrong else [WELL]
    for source in status.sources:
        lines += ["", *_source_lines(source)]
    if not status.sources:
        lines += ["", "No source is configured (FRAUD_POSTGRES_DSN, FRAUD_KAFKA_BOOTSTRAP_SERVERS)."]
    for layer, tables in status.layers.items():
        if tables:
            lines += ["", f"{layer:<44}{'rows':>14}{'version':>9}  changed"]
        for row in tables:
            changed = "-" if row["freshness_seconds"] is None else f"{_duration(row['freshness_seconds'])} ago"
            output = row["error"] or f"{row['rows']:>14,}{row['version']:>9}  {changed}"
            lines.append(f"  {row['table']:<42}{output}")
    alerts = status.alerts
    lines += ["", f"Alerts: {alerts['open']:,} open, {alerts['undelivered']:,} undelivered"]
    for title in ("by_severity", "by_rule", "by_stream"):
        if alerts[title]:
            lines.append("  " + ", ".join(f"{name}: {count:,}" for name, count in alerts[title].items()))
    if not alerts["destinations"]:
        lines.append("  no destination configured (FRAUD_ALERT_URLS)")
    for one in alerts["destinations"]:
        failing = f", failing ({one['failures']} in a row): {one['error']}" if one["failures"] else ""
        lines.append(f"  {one['destination']}: {one['pending']:,} pending{failing}")
    lines += ["", *_transfer_lines(status.transfers)] if status.transfers else []
    lines += ["", *_live_lines(status.live)] if status.live else []
    lines += ["", "Features:", *(f"  {one['message']}" for one in status.outdated)] if status.outdated else []
    rules = [f"  {name}: {mistake}" for name, mistake in status.rules.items()]
    lines += ["", "Rules that are not evaluated (fraud-lakehouse rules check):", *rules] if rules else []
    if status.quarantined:
        lines += ["", f"Quarantine: {status.quarantined:,} unreadable records (fraud-lakehouse quarantine list)"]
    if status.problems:
        lines += ["", "Problems:"]
        lines += [
            f"  {one['at']} {one['source']} {one['event']}: {_sentence(one['detail'])}" for one in status.problems
        ]
    return "\n".join(lines)


def _live_lines(live: Mapping[str, Any]) -> list[str]:
    lease = live.get("lease")
    heartbeat = f"process {lease['pid']}, heartbeat {_duration(lease['age'])} ago" if lease else ""
    if live["running"]:
        how = f"runs ({heartbeat})"
    elif lease:
        how = f"hangs ({heartbeat}): a process that stands by takes over"
    else:
        how = f"does not run; it last did {_duration(live['age_seconds'])} ago"
    done = f"{live['cycles']:,} cycles, {live['rows']:,} rows, {live['alerts']:,} alerts, {live['errors']:,} errors"
    lines = [f"Live cycle {how}: {done}"]
    for name, times in live["seconds"].items():
        lines.append(f"  {name:<18}p50 {times['p50']:.2f} s, p99 {times['p99']:.2f} s, longest {times['max']:.2f} s")
    for source, behind in live["behind"].items():
        waits = behind["seconds"] or behind["rows"] or behind["source_rows"] or behind.get("away_since")
        if live["running"] and waits:
            lines.append(f"  {source} waits for {_behind_words(behind)}")
    for part, problem in live.get("problems", {}).items() if live["running"] else ():
        lines.append(f"  problem of {part}: {' '.join(problem.split())}")
    return lines


def _behind_words(behind: Mapping[str, Any]) -> str:
    words = [f"{behind['seconds']:.1f} s", f"{behind['rows']:,} rows not scored"]
    words += [f"{behind['source_rows']:,} rows in the source"] if behind["source_rows"] else []
    words += [f"{behind['source_bytes']:,} bytes of log in the source"] if behind["source_bytes"] else []
    words += [f"no answer from it since {behind['away_since']}"] if behind.get("away_since") else []
    return ", ".join(words)


def _source_lines(source: SourceStatus) -> list[str]:
    if source.absent:
        return [f"{source.name}: the topic does not exist yet"]
    if isinstance(source.position, dict):
        position = ", ".join(f"{partition}: {offset:,}" for partition, offset in source.position.items())
    else:
        position = source.position or "nothing landed yet"
    behind = []
    if source.lag_rows is not None:
        behind.append(f"{source.lag_rows:,} rows")
    if source.lag_bytes is not None:
        behind.append(f"{source.lag_bytes:,} bytes")
    if source.lag_seconds is not None:
        behind.append(_duration(source.lag_seconds))
    lines = [f"{source.name}: position {position}" + (f"; behind {', '.join(behind)}" if behind else "")]
    if source.last_batch:
        batch = source.last_batch
        lines.append(f"  last batch {batch['landed_at']:%F %T} UTC: {batch['rows']:,} rows in {batch['seconds']:.2f} s")
    if source.wal_status is not None:
        lines.append(f"  slot keeps {source.retained_bytes or 0:,} bytes of WAL ({source.wal_status})")
    if source.slot_health:
        lines += [f"  slot {source.slot_health['level']}: {reason}" for reason in source.slot_health["reasons"]]
    lines += [f"  left out {one['table']}: {_sentence(one)}" for one in source.left_out]
    lines += [f"  hanging transaction: {_sentence(one)}" for one in source.open_transactions if one["hanging"]]
    lines += [f"  ERROR {line}" for line in (source.error or "").splitlines()]
    return lines


def _transfer_lines(found: Mapping[str, Any]) -> list[str]:
    waits = "" if found["validator"] else " (FRAUD_VALIDATOR_URL is not set)"
    counts = ", ".join(f"{found[name]:,} {name}" for name in ("judged", "refused", "pending"))
    lines = [f"Transfers: {found['transfers']:,}, {found['unidentified']:,} of them unidentified: {counts}{waits}"]
    if found["failures"]:
        failures = ", ".join(f"{kind} {count:,}" for kind, count in found["failures"].items())
        lines.append(f"  the validator has failed: {failures}")
    if found["problem"]:
        lines.append(f"  ERROR {found['problem']}")
    return lines


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def _sentence(detail: Mapping[str, Any]) -> str:
    problem, fix = detail.get("problem"), detail.get("fix")
    return f"{problem} -> {fix}" if problem and fix else str(problem or json.dumps(dict(detail)))
