"""The micro-batch cycle, shared by every way of running it: capture (1), ingest (2), build (3), deliver (4).

`cycle.py` is one cycle, step by step. `loop.py` repeats it; work that must not delay an alert runs in the background.
"""

from fraud_lakehouse.live.cycle import Cycle, CycleResult
from fraud_lakehouse.live.loop import run_until
from fraud_lakehouse.live.standby import run_live

__all__ = ["Cycle", "CycleResult", "run_live", "run_until"]
