"""Faults of `fraud-lakehouse live`: silver is the source, gold what bronze recomputes, alerts stay as they fired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.alert_receiver import Receiver
from tests.soak import destination_faults, landing_faults, live_faults, name_faults, value_faults
from tests.soak.conftest import SEED
from tests.soak.hostile_destination import HostileDestination
from tests.soak.live_stand import LiveStand
from tests.soak.servers import Servers
from tests.soak.shop import STREAM
from tests.soak.stand import Stand

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(1200)]

ROUNDS = [
    (value_faults.HUGE_AMOUNTS, value_faults.FUTURE_CARDS),
    (name_faults.FILE_FORMATS, destination_faults.REDIRECT),
    (live_faults.SECOND_DATABASE, live_faults.killed_at(f"model.{STREAM}_features.before_commit")),
    *zip(live_faults.KILLS, live_faults.DISTURBANCES, strict=True),
]
"""Two faults, then a catch-up and a comparison; of the newer families the cheapest."""


@pytest.fixture(scope="module")
def life(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStand]:
    with Receiver() as receiver, HostileDestination() as hostile:
        home: Path = tmp_path_factory.mktemp("live")
        stand = Stand(servers, home, SEED, batch_rows=500, alert_urls=[receiver.url, hostile.url])
        with LiveStand(stand, receiver, hostile) as living:
            living.settle()
            yield living
        stand.close()


@pytest.mark.parametrize("faults", ROUNDS, ids=lambda faults: " and ".join(fault.name for fault in faults))
def test_the_product_survives(life: LiveStand, faults: tuple[live_faults.LiveFault, ...]) -> None:
    for fault in faults:
        fault.inject(life)
    life.settle()
    result = life.judge(gold=faults == ROUNDS[-1])
    print(f"seed {SEED}: {result.checked} rows checked, {len(life.alerts)} alerts, recoveries {life.recoveries}")
    assert result.clean, result.problems
    assert len(life.alerts) > 0


def test_there_are_enough_injections() -> None:
    """What CI promises: at least 40 injections, 12 of them into the whole product."""
    whole = sum(len(faults) for faults in ROUNDS)
    assert whole >= 12
    assert whole + len(landing_faults.SNAPSHOT) + len(landing_faults.LOG) >= 40
