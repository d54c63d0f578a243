"""A dbt model of one source that fails again and again: the alerts of the other sources go on."""

from __future__ import annotations

from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import KAFKA, POSTGRES, SHOP, LiveStand
from tests.soak.shop import STREAM


def failing(model: str, *others: str) -> LiveFault:
    """Every build of the model fails while the process runs; the next process builds it.

    Args:
        others: the sources whose alerts must go on.
    """

    def inject(life: LiveStand) -> None:
        live = life.live(f"model.{model}.before_commit:fail")
        with life.stand.working():
            live.wait_for(model)  # it is named as failing
            life.check_alerts(*others)
            life.check_alerts(*others)
        life.end()
        life.live()
        life.check_alerts()

    return LiveFault(f"live: model {model} fails", f"failing model, alerts of {' and '.join(others)} go on", inject)


FAULTS = [
    failing("transactions_ledger", KAFKA, SHOP),
    failing("transaction_features", KAFKA, SHOP),
    failing("card_transactions", POSTGRES, SHOP),
    failing("card_transaction_features", POSTGRES, SHOP),
    failing(f"{STREAM}_ledger", POSTGRES, KAFKA),
    failing(f"{STREAM}_features", POSTGRES, KAFKA),
]
