"""Latency of newly recorded alerts: from the source's commit until ingested, scored and recorded."""

from __future__ import annotations

from fraud_lakehouse.alerts.outbox import ALERTS
from fraud_lakehouse.storage.errors import lake_errors
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.new_rows import NewRows

_UNTIL = {"landed": "landed_at", "scored": "scored_at", "recorded": "fired_at"}


class AlertTimes:
    """Reports each alert's times once; alerts recorded before the first call are ignored."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._alerts = NewRows(lake, ALERTS)
        with lake_errors(lake, *ALERTS):
            self._alerts.skip()

    def take(self) -> dict[str, list[float]]:
        """Seconds from the source's commit to "landed", "scored", "recorded", for the alerts since the last call.

        Raises:
            LakeError: the table cannot be read.
        """
        with lake_errors(self._lake, *ALERTS):
            new = self._alerts.read()
            if new.rows is None or not new.only_new:
                return {}
            rows = new.rows.select("source_committed_at", *_UNTIL.values()).drop_nulls().collect()
        return {
            until: ((rows[column] - rows["source_committed_at"]).dt.total_microseconds() / 1e6).to_list()
            for until, column in _UNTIL.items()
        }
