"""Precision and recall of the alerts so far, from gold/alerts and the generators' ground truth.

Counted per transaction, however many rules fired on it. A transaction is due once everything generated up to it has
been ingested and scored. Recall is over due transactions only, so lag does not count as missed fraud.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.demo.truth import Anomaly, Truth
from fraud_lakehouse.storage.lake import Lake, data_files

_COLUMNS = ["alert_id", "rule", "source", "transaction_id", "user_id", "amount", "evidence", "fired_at"]


@dataclass
class Score:
    """Counts of one source; `right` are alerted transactions that are anomalous, `found` due ones with an alert."""

    alerts: int = 0
    alerted: set[str] = field(default_factory=set)
    anomalous: dict[str, Anomaly] = field(default_factory=dict)
    due: set[str] = field(default_factory=set)

    @property
    def right(self) -> int:
        """Alerted transactions that are anomalous."""
        return len(self.alerted & self.anomalous.keys())

    @property
    def found(self) -> int:
        """Due anomalous transactions that have an alert."""
        return len(self.due & self.alerted)

    @property
    def precision(self) -> float | None:
        """Share of the alerted transactions that are anomalous; None before the first alert."""
        return self.right / len(self.alerted) if self.alerted else None

    @property
    def recall(self) -> float | None:
        """Share of the due anomalous transactions that have an alert; None before the first is due."""
        return self.found / len(self.due) if self.due else None

    @property
    def cases(self) -> tuple[int, int]:
        """Fraud cases with an alert on any of their transactions, and all due cases."""
        found = {self.anomalous[key].case for key in self.due & self.alerted}
        return len(found), len({self.anomalous[key].case for key in self.due})


class Scoreboard:
    """Keeps the score of one lake; each refresh reads only the alerts and the truth that are new.

    Args:
        lake: has gold/alerts.
        truths: ground truth by source.
    """

    def __init__(self, lake: Lake, truths: Sequence[Truth]) -> None:
        self.scores = {truth.source: Score() for truth in truths}
        self.by_rule: Counter[str] = Counter()
        self._lake = lake
        self._truths = truths
        self._table: DeltaTable | None = None
        self._files: set[str] = set()
        self._known: set[str] = set()
        self._waiting: dict[str, list[Anomaly]] = {truth.source: [] for truth in truths}

    @property
    def alerts(self) -> int:
        """Alerts recorded so far."""
        return len(self._known)

    def refresh(self, scored_until: Mapping[str, datetime]) -> list[dict[str, Any]]:
        """Read new alerts and truth; returns the new alerts, oldest first.

        Args:
            scored_until: by source, the time (UTC) up to which everything generated has been ingested and scored.
        """
        fresh = self._new_alerts()
        for alert in fresh:
            score = self.scores.setdefault(alert["source"], Score())
            score.alerts += 1
            score.alerted.add(alert["transaction_id"])
            self.by_rule[alert["rule"]] += 1
        for truth in self._truths:
            score, waiting = self.scores[truth.source], self._waiting[truth.source]
            for anomaly in truth.read_new():
                if anomaly.transaction_id not in score.anomalous:
                    waiting.append(anomaly)
                score.anomalous[anomaly.transaction_id] = anomaly
            until = scored_until.get(truth.source)
            if until is not None:
                score.due.update(anomaly.transaction_id for anomaly in waiting if anomaly.at <= until)
                waiting[:] = [anomaly for anomaly in waiting if anomaly.at > until]
        return fresh

    def _new_alerts(self) -> list[dict[str, Any]]:
        if self._table is None:
            if not self._lake.exists("gold", "alerts"):
                return []
            self._table = self._lake.open("gold", "alerts")
        else:
            self._table.update_incremental()
        files = set(data_files(self._table))
        unread = sorted(files - self._files)
        if not unread:
            return []
        # A compacted file repeats known alerts, which are recognised by id.
        frame = pl.concat([pl.read_parquet(file, columns=_COLUMNS) for file in unread]).sort("fired_at", "alert_id")
        self._files = files
        fresh = [alert for alert in frame.iter_rows(named=True) if alert["alert_id"] not in self._known]
        self._known.update(alert["alert_id"] for alert in fresh)
        return fresh


def describe(alert: Mapping[str, Any]) -> str:
    """An alert in one line: rule, transaction, user, amount and evidence."""
    amount = "" if alert["amount"] is None else f", amount {alert['amount']:,.2f}"
    return (
        f"{alert['rule']} on {alert['source']} transaction {alert['transaction_id']}"
        f" of user {alert['user_id']}{amount}: {alert['evidence']}"
    )


def percent(share: float | None) -> str:
    """A share as "93 %", or a dash if it is None."""
    return "-" if share is None else f"{share:.0%}".replace("%", " %")
