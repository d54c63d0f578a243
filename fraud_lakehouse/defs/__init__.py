"""What Dagster loads: assets, checks, sensors, schedules. Each is a few lines around a plain function.

Nothing here knows how to capture, land, transform or detect; `definitions.py` puts the parts together.
"""

from __future__ import annotations

from fraud_lakehouse.allocator import give_memory_back

give_memory_back()  # the first module of the product that a run imports

OWNERS = ["team:fraud-platform"]

# Batch runs take turns: dagster.yaml gives every pool one run at a time. Live runs take turns in `live/standby.py`.
LAKE_POOL = "lake"

UPDATE_JOB = "update"
LIVE_JOB = "live"
LIVE_SECONDS = 900.0  # after which the next live run takes over, whose start costs 15 s of processor time
