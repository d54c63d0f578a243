"""A sensor driven as Dagster's daemon drives it."""

from __future__ import annotations

from typing import Any

import dagster as dg


class Ticks:
    """Drives one sensor as the daemon does: keeps the cursor, drops run keys it has seen."""

    def __init__(self, stand: Any, sensor: str, instance: dg.DagsterInstance) -> None:
        self.stand = stand
        self.sensor = stand.sensor(sensor)
        self.instance = instance
        self.cursor: str | None = None
        self.keys: set[str] = set()

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        """One tick: the run requests that would start a run, and the sentence of a skip."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        fresh = [one for one in data.run_requests or [] if one.run_key is None or one.run_key not in self.keys]
        self.keys |= {one.run_key for one in fresh if one.run_key}
        return fresh, data.skip_message or ""

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Execute a requested run."""
        return self.stand.materialize(self.instance, tags=request.tags, asset_selection=request.asset_selection)
