"""What Dagster loads: assets, checks, sensors, schedules. Each is a few lines around a plain function.

Nothing here knows how to capture, ingest, transform or detect. `definitions.py` assembles the pieces.
"""

from __future__ import annotations

from fraud_lakehouse.allocator import give_memory_back

give_memory_back()  # here, because a run imports this module of the product first

OWNERS = ["team:fraud-platform"]

# Batch runs are serialised: dagster.yaml allows one run at a time per pool. `live/standby.py` serialises live runs.
LAKE_POOL = "lake"

UPDATE_JOB = "update"
LIVE_JOB = "live"
LIVE_SECONDS = 900.0  # until the next live run takes over; starting one costs 15 s of processor time
