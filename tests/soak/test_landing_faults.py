"""Faults while both sources are landed: after each, every committed row is in bronze once and in order.

The tests of `LOG` go on with one lake, so the last of them judges a lake that lived through all of them. The longer
run is `make soak`.
"""

from __future__ import annotations

import pytest

from tests.soak.conftest import SEED
from tests.soak.landing_faults import LOG, SNAPSHOT, Fault
from tests.soak.stand import Stand

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.postgres, pytest.mark.kafka]


@pytest.mark.parametrize("fault", SNAPSHOT, ids=lambda fault: fault.name)
def test_the_first_snapshot_survives(new_stand: Stand, fault: Fault) -> None:
    survive(new_stand, fault)


@pytest.mark.parametrize("fault", LOG, ids=lambda fault: fault.name)
def test_landing_survives(stand: Stand, fault: Fault) -> None:
    survive(stand, fault)


def survive(stand: Stand, fault: Fault) -> None:
    fault.inject(stand)
    stand.drain()
    result = stand.judge()
    print(f"seed {SEED}: {fault.name}, {result.checked} rows checked")
    assert result.clean, result.problems
