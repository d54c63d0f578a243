"""What a soak promises to inject."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from tests.soak.deck import ingestion_deck, live_deck, rounds


@pytest.mark.parametrize("broker_keeps", [False, True])
def test_every_round_has_every_kind_of_at_least_twenty(broker_keeps: bool) -> None:
    kinds = {fault.kind for fault in [*live_deck(broker_keeps), *ingestion_deck(broker_keeps)]}
    assert len(kinds) >= 20
    drawn = list(islice(rounds(Random(7), broker_keeps), 3))
    for faults in drawn:
        assert {fault.kind for fault in faults} == kinds
    assert [fault.name for fault in drawn[0]] != [fault.name for fault in drawn[1]]


def test_a_seed_repeats_the_order() -> None:
    first, again, other = ([fault.name for fault in next(rounds(Random(seed), True))] for seed in (3, 3, 4))
    assert first == again != other


def test_only_some_faults() -> None:
    assert {fault.kind for fault in next(rounds(Random(1), False, "clock"))} == {
        "clock steps forward, then back",
        "clock steps back, then forward",
    }
