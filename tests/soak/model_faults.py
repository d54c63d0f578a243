"""A dbt model of one source that fails again and again: the alerts of the other source go on."""

from __future__ import annotations

from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import KAFKA, POSTGRES, LiveStand


def failing(model: str, others: str) -> LiveFault:
    """Every build of the model fails while the process runs; the next process builds it.

    Args:
        others: the source whose alerts must go on.
    """

    def inject(life: LiveStand) -> None:
        live = life.live(f"model.{model}.before_commit:fail")
        with life.stand.working():
            live.wait_for(model)  # it is named as failing
            life.check_alerts(others)
            life.check_alerts(others)
        life.end()
        life.live()
        life.check_alerts()

    return LiveFault(f"live: model {model} fails", f"failing model, alerts of {others} go on", inject)


FAULTS = [
    failing("transactions_ledger", KAFKA),
    failing("transaction_features", KAFKA),
    failing("card_transactions", POSTGRES),
    failing("card_transaction_features", POSTGRES),
]
