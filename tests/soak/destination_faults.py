"""Alert destinations that misbehave: the honest one gets every alert meanwhile, and they get theirs afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests.soak.hostile_destination import REDIRECTS
from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import LiveStand

REQUEST_SECONDS = 60.0
"""How long the destination may be left alone after the failures before: it is tried again every half minute."""
MOST_GROWTH = 300 * 1024 * 1024
"""Bytes of memory that the process may gain, whatever it is sent."""


def behaving(behaviours: Sequence[str]) -> Callable[[LiveStand], None]:
    """One of these behaviours, until the destination was tried and the honest one has got its alerts."""

    def inject(life: LiveStand) -> None:
        live, hostile = life.live(), life.hostile
        behaviour = life.stand.dice.choice(list(behaviours))
        before = hostile.requests.get(behaviour, 0)
        memory = live.memory
        with hostile.behaving(behaviour):
            with life.stand.working():
                life.check_alerts()
            until = time.monotonic() + REQUEST_SECONDS
            while hostile.requests.get(behaviour, 0) == before:
                assert time.monotonic() < until, (
                    f"the destination that {behaviour} was not tried: {live.output[-2000:]}"
                )
                time.sleep(0.05)
            life.check_alerts()
            life.stand.pause(0.5, 1.0)
        life.go_on()
        grown = live.memory - memory
        assert grown < MOST_GROWTH, f"{behaviour}: the process grew by {grown / 2**20:.0f} MiB"
        assert not hostile.elsewhere, f"alerts followed a redirect to {hostile.elsewhere}"

    return inject


REDIRECT = LiveFault("live: a destination redirects", "alert destination redirects", behaving(REDIRECTS))
FAULTS = [
    REDIRECT,
    LiveFault("live: a destination drips", "alert destination drips", behaving(["drips headers", "drips a body"])),
    LiveFault(
        "live: a destination sends too much",
        "alert destination sends without end",
        behaving(["sends a huge body", "sends an endless failure"]),
    ),
    LiveFault("live: a destination never answers", "alert destination never answers", behaving(["never answers"])),
    LiveFault(
        "live: a destination lies",
        "alert destination lies",
        behaving(["cuts its answer", "answers nonsense", "claims success in a failure"]),
    ),
]
