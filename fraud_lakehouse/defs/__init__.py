"""What Dagster loads: assets, checks, sensors, schedules. Each is a few lines around a plain function.

Nothing here knows how to capture, land, transform or detect; `definitions.py` puts the parts together.
"""

from __future__ import annotations

OWNERS = ["team:fraud-platform"]

# Runs that write the lake take turns: dagster.yaml gives every pool one run at a time.
LAKE_POOL = "lake"
LIVE_POOL = "live"

UPDATE_JOB = "update"
LIVE_JOB = "live"
