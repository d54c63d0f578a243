"""One live cycle a lake: a second one stands by, warm, and goes on where the first one stopped, was killed or hangs.

So a live run is followed by the next without a gap, and a killed one is replaced at once wherever a standby waits; one
that hangs, within some seconds. Should it go on later, it finds that it was replaced, and ends.
Correctness does not rest on it: two cycles at once would only take turns and be refused by the fences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fraud_lakehouse.live.background import Beside
from fraud_lakehouse.live.cycle import Cycle, CycleResult
from fraud_lakehouse.live.loop import run_until
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lease import Lease, LeaseLostError, is_held
from fraud_lakehouse.storage.writer_lock import TurnTakenError, process_lock

_SLICE_SECONDS = 0.2


def run_live(
    settings: Settings,
    stop: Callable[[], bool],
    report: Callable[[CycleResult], None],
    *,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Repeat the cycle, once nobody else does, until `stop()`.

    Args:
        is_over: whether the time of this process is over: it then ends as soon as a successor stands by, not before.

    Raises:
        LeaseLostError: this process was stopped, swapped out or stuck, and another one goes on.
        LakeError: the lake cannot be written.
    """
    # The process beside is waited for last: the build it is in would keep the successor for seconds from the turn, and
    # from delivering alerts, which the cycle's end lets go of.
    with Beside(settings) as beside, Cycle(settings) as cycle:
        if is_held(settings.work_dir / "live.lock"):
            cycle.warm_up()  # else rows are landed meanwhile: a restart after a kill does not wait for dbt's imports
        with live_turn(settings.work_dir, stop) as lease:
            if lease is None:
                return
            queue = settings.work_dir / "live.queue"
            run_until(
                cycle,
                beside,
                lambda: stop() or not lease.is_ours or (is_over() and is_held(queue)),
                report,
            )
            if not lease.is_ours:
                raise LeaseLostError("this live process")


@contextmanager
def live_turn(work: Path, stop: Callable[[], bool]) -> Iterator[Lease | None]:
    """Wait until no other live cycle runs; None if `stop()` came first. Who waits is known by `live.queue`."""
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
        except TurnTakenError:
            continue
    return None
