"""The landing half of the product as a program of its own: no dbt, so a test can kill it forty times.

`python -m tests.soak.landing` with the product's settings in the environment lands all sources until
SIGTERM. A source that cannot be read is tried again; an error of the lake ends it, as it does `fraud-lakehouse live`.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time

from fraud_lakehouse.errors import ConcurrentWriterError, GapError, LakehouseError, SourceError
from fraud_lakehouse.failpoints import arm_from
from fraud_lakehouse.ingest import open_ingest
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import configured_sources
from fraud_lakehouse.storage import housekeeping
from fraud_lakehouse.storage.compaction import Tier
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.maintenance import maintain


def land(settings: Settings, stop: threading.Event, *, only: str | None, upkeep: bool) -> None:
    """Take turns between the sources, or land `only` one of them, until told to stop."""
    lake = Lake.at(settings.lake)
    with contextlib.ExitStack() as stack:
        sources = [
            stack.enter_context(contextlib.closing(open_ingest(config, settings, lake, tuple)))
            for name, config in configured_sources(settings).items()
            if only in (None, name)
        ]
        while not stop.is_set():
            ingested = 0
            for source in sources:
                try:
                    ingested += len(source.step(settings.batch_rows))
                except (SourceError, ConcurrentWriterError) as error:
                    print(f"{source.name}: {type(error).__name__}: {error}", flush=True)
                    time.sleep(0.05)
            if upkeep:
                maintain(lake, ("bronze", "control"))
            if not ingested:
                time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="land one source, by its name")
    parser.add_argument("--upkeep", action="store_true", help="do the scheduled upkeep after every step")
    parser.add_argument("--commits", type=int, help="commits between two checkpoints, instead of the product's number")
    options = parser.parse_args()
    if options.commits:
        housekeeping.CHECKPOINT_INTERVAL, housekeeping.TIERS = options.commits, (Tier(0, housekeeping.MEBIBYTE, 2),)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = load_settings()
    if settings.failpoint:
        arm_from(settings.failpoint)
    print("ready", flush=True)
    try:
        land(settings, stop, only=options.only, upkeep=options.upkeep)
    except GapError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 9
    except LakehouseError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
