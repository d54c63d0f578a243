"""One live cycle per lake. A second process waits as a standby and continues when the first one stops, dies or hangs.

So one live run follows another without a gap. A standby replaces a killed process at once, and one that hangs within
seconds. If the hung process resumes, it finds that it was replaced, and ends.
Correctness does not depend on this: two cycles at once would only wait for each other's locks and conflict in commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fraud_lakehouse.live.background import BackgroundWorker
from fraud_lakehouse.live.cycle import Cycle, CycleResult
from fraud_lakehouse.live.loop import run_until
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lease import Lease, LeaseLostError, is_held
from fraud_lakehouse.storage.writer_lock import LockTakenError, process_lock

_SLICE_SECONDS = 0.2


def run_live(
    settings: Settings,
    stop: Callable[[], bool],
    report: Callable[[CycleResult], None],
    *,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Repeat the cycle until `stop()`, as soon as no other process runs it.

    Args:
        is_over: whether this process should hand over: it then ends as soon as a successor waits, not before.

    Raises:
        LeaseLostError: this process was stopped, swapped out or stuck, and another one has taken over.
        LakeError: the lake cannot be written.
    """
    # The worker is awaited last: its current build can take long. By then the cycle's end has released the lock and
    # the delivery of alerts to the successor.
    with BackgroundWorker(settings) as worker, Cycle(settings) as cycle:
        if is_held(settings.work_dir / "live.lock"):
            cycle.warm_up()  # without a predecessor, ingestion starts first: it need not wait for dbt's imports
        with live_lock(settings.work_dir, stop) as lease:
            if lease is None:
                return
            queue = settings.work_dir / "live.queue"
            run_until(
                cycle,
                worker,
                lambda: stop() or not lease.is_ours or (is_over() and is_held(queue)),
                report,
            )
            if not lease.is_ours:
                raise LeaseLostError("this live process")


@contextmanager
def live_lock(work: Path, stop: Callable[[], bool]) -> Iterator[Lease | None]:
    """Wait until no other live cycle runs; None if `stop()` came first. A waiting process holds `live.queue`."""
    with ExitStack() as held:
        lease = None
        with ExitStack() as queued:
            if _acquired(work / "live.queue", queued, stop) is not None:
                lease = _acquired(work / "live.lock", held, stop)
        yield lease


def _acquired(path: Path, held: ExitStack, stop: Callable[[], bool]) -> Lease | None:
    while not stop():
        try:
            return held.enter_context(process_lock(path, _SLICE_SECONDS, "runs this lake's live cycle"))
        except LockTakenError:
            continue
    return None
