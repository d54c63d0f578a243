"""A wall clock that steps while the product runs: it lives on, and a rebuild still gives what it had built."""

from __future__ import annotations

from collections.abc import Callable

from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import LiveStand

HOUR = 3_600


def stepped(seconds: int) -> Callable[[LiveStand], None]:
    """The clock steps by so many seconds and, some payments later, back to the true time."""

    def inject(life: LiveStand) -> None:
        clock = life.stand.clock
        assert clock is not None, "the stand has no clock of its own"
        live = life.live()
        with life.stand.working():
            life.stand.pause(0.3, 0.6)
            clock.step(seconds)
            try:
                life.check_alerts()
                life.stand.pause(0.5, 1.0)
            finally:
                clock.step(0)
            life.check_alerts()
        assert live.running, live.output
        life.go_on()

    return inject


FAULTS = [
    LiveFault("live: clock an hour ahead", "clock steps forward, then back", stepped(HOUR), rebuild=True),
    LiveFault("live: clock an hour behind", "clock steps back, then forward", stepped(-HOUR), rebuild=True),
]
