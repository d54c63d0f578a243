"""Which faults a soak injects, and in which order: every kind once before any comes again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import TypeVar

from tests.soak import (
    clock_faults,
    destination_faults,
    landing_faults,
    live_faults,
    machine_faults,
    model_faults,
    name_faults,
    standby_faults,
    value_faults,
)
from tests.soak.landing_faults import Fault
from tests.soak.live_faults import LiveFault

AnyFault = Fault | LiveFault
T = TypeVar("T", Fault, LiveFault)
KILLS = "kill -9 at a failpoint"
_KILLS_OF_A_ROUND = 6
_BLOCK = 4
"""Ingestion faults that follow each other: each block ends the live process and starts it again."""


def live_deck(broker_keeps: bool) -> list[LiveFault]:
    """All faults of the whole product.

    Args:
        broker_keeps: whether the broker's log survives a restart.
    """
    return [
        *live_faults.KILLS,
        *live_faults.MORE_KILLS,
        *live_faults.model_kills(),
        *live_faults.DISTURBANCES,
        *live_faults.MORE_DISTURBANCES,
        *([live_faults.BROKER_RESTART] if broker_keeps else []),
        *value_faults.FAULTS,
        *name_faults.FAULTS,
        *destination_faults.FAULTS,
        *machine_faults.FAULTS,
        *clock_faults.FAULTS,
        *standby_faults.FAULTS,
        *model_faults.FAULTS,
    ]


def ingestion_deck(broker_keeps: bool) -> list[Fault]:
    """All faults of ingestion alone, on a lake that has its snapshot."""
    return [*landing_faults.LOG, *(landing_faults.APACHE if broker_keeps else [])]


def rounds(dice: Random, broker_keeps: bool, only: str = "") -> Iterator[list[AnyFault]]:
    """Rounds without end; each has every kind at least once, faults of ingestion in blocks.

    Args:
        only: a regular expression, found in the names of all faults.
    """
    live = _chosen(live_deck(broker_keeps), only)
    ingestion = _chosen(ingestion_deck(broker_keeps), only)
    assert live or ingestion, f"no fault's name matches {only!r}"
    while True:
        blocks: list[list[AnyFault]] = [[fault] for fault in _of_each_kind(dice, live)]
        drawn = _of_each_kind(dice, ingestion)
        blocks += [[*drawn[at : at + _BLOCK]] for at in range(0, len(drawn), _BLOCK)]
        dice.shuffle(blocks)
        yield [fault for block in blocks for fault in block]


def _chosen(faults: list[T], only: str) -> list[T]:
    return [fault for fault in faults if re.search(only, fault.name)]


def _of_each_kind(dice: Random, faults: list[T]) -> list[T]:
    """One fault of each kind, several of kills, in random order."""
    by_kind: dict[str, list[T]] = {}
    for fault in faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    drawn = [
        fault
        for kind, choices in by_kind.items()
        for fault in dice.sample(choices, min(len(choices), _KILLS_OF_A_ROUND if kind == KILLS else 1))
    ]
    dice.shuffle(drawn)
    return drawn
