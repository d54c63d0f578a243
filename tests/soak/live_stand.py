"""A stand whose product is the whole of it: `fraud-lakehouse live`, dbt models and alerts included."""

from __future__ import annotations

import shutil
import time
from decimal import Decimal
from pathlib import Path

from fraud_lakehouse.live import Cycle
from tests.alert_receiver import Receiver
from tests.soak.bronze_verdict import Verdict
from tests.soak.derived_verdict import AlertBook, check_deliveries, compare_others, judge_gold, judge_silver
from tests.soak.hostile_destination import HostileDestination
from tests.soak.oracle_check import BANK, check_against_oracle, shop
from tests.soak.product import Product, ProductError
from tests.soak.stand import DRAIN_ROWS, Stand

DELIVERY_SECONDS = 30.0
ALERT_SECONDS = 120.0
"""How long an alert may take before it is called missing: on a busy machine, behind a retry of what was broken."""
LAST_DELIVERY_SECONDS = 120.0
POSTGRES, KAFKA, SHOP = "PostgreSQL", "Kafka", "the second database"
_SUSPICIOUS = Decimal(2_500)


class LiveStand:
    """Adds to a stand the live process, which is kept between faults where they allow it; a context manager.

    Args:
        stand: its alerts go to `receiver` and to `hostile`.
        receiver: started.
        hostile: another destination.
    """

    def __init__(self, stand: Stand, receiver: Receiver, hostile: HostileDestination) -> None:
        self.stand = stand
        self.receiver = receiver
        self.hostile = hostile
        self.alerts = AlertBook()
        self.takeovers: list[float] = []
        self.alert_seconds: list[float] = []
        self.recoveries: list[float] = []
        self._live: Product | None = None
        self._cycle: Cycle | None = None
        self._killed = False

    def __enter__(self) -> LiveStand:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._cycle is not None:
            self._cycle.close()

    def live(self, failpoint: str = "") -> Product:
        """The running process; a new one where there is none, or where a failpoint is to be armed.

        It must land something new, which is timed where it comes after a killed one.
        """
        if failpoint:
            self.end()
        if self._live is None or not self._live.running:
            self.stand.work(3)
            before, began = self._commits(), time.monotonic()
            self._live = self.stand.product("live", failpoint=failpoint)
            if not failpoint:
                self._wait_landing(self._live, before, began)
        return self._live

    def go_on(self) -> None:
        """A cause has ended: wait until the process, a new one if need be, lands something new; how long is noted."""
        if self._live is None or not self._live.running:
            self.killed()
            self.live()
            return
        before, began = self._commits(), time.monotonic()
        self.stand.work(3)
        self._wait_landing(self._live, before, began)
        self.recoveries.append(time.monotonic() - began)

    def check_alerts(self, *sources: str) -> None:
        """A suspicious payment of each source is committed now: its alert must reach the honest destination soon.

        Args:
            sources: of `POSTGRES`, `KAFKA` and `SHOP`; none: all.

        Raises:
            ProductError: one did not, or the process has ended.
        """
        live, began = self.live(), time.monotonic()
        pay = {
            POSTGRES: lambda: str(self.stand.ledger.pay(_SUSPICIOUS)),
            KAFKA: lambda: self.stand.cards.pay(float(_SUSPICIOUS)),
            SHOP: lambda: self.stand.shop.pay(_SUSPICIOUS),
        }
        wanted = {pay[source](): source for source in sources or pay}
        seen = 0
        while wanted:
            if not live.running or time.monotonic() - began > ALERT_SECONDS:
                sources = " and ".join(wanted.values())
                raise ProductError(f"no alert from {sources} in {ALERT_SECONDS:.0f} s: {live.output[-2000:]}")
            received = self.receiver.received
            for message in received[seen:]:
                wanted.pop(str(message.get("transaction_id")), None)
            seen = len(received)
            time.sleep(0.02)
        self.alert_seconds.append(time.monotonic() - began)

    def taken_over(self, standby: Product, seconds: list[float]) -> None:
        """The live process just stopped: wait until `standby` lands something new, and go on with it.

        Args:
            seconds: where it is noted how long that took.
        """
        before, began = self._commits(), time.monotonic()
        self.stand.work(3)
        self._wait_landing(standby, before, began)
        seconds.append(time.monotonic() - began)
        self._live = standby

    def killed(self) -> None:
        """Say that the process was killed: the next one recovers."""
        self._live, self._killed = None, True

    def end(self) -> None:
        """End the live process in order, if there is one."""
        live, self._live = self._live, None
        if live is None or not live.running:
            return
        code = live.end()
        if code != 0:
            raise ProductError(f"live ended with {code}: {live.output[-2000:]}")

    def settle(self, *, fresh_process: bool = False) -> None:
        """Catch up, in this process or in a fresh one, while a live process may go on beside."""
        if fresh_process:
            with self.stand.product("catch-up", rows=DRAIN_ROWS) as product:
                if product.wait_ended(300) != 0:
                    raise ProductError(f"catch-up failed: {product.output[-2000:]}")
            return
        if self._cycle is None:
            self._cycle = Cycle(self.stand.settings)
        self._cycle.catch_up()

    def judge(self, *, gold: bool) -> Verdict:
        """Compare everything with the record; the lake must be settled."""
        result = self.stand.judge()
        if not result.clean:
            return result
        result.add(judge_silver(self.stand.lake, self.stand.ledger))
        result.add(judge_silver(self.stand.lake, self.stand.shop))
        named = {table: self.stand.bronze_name(table) for table in self.stand.tables}
        result.add(compare_others(self.stand.lake, self.stand.ledger.dsn, named))
        # A live cycle that is still running delivers in the background, and catch-up leaves it to that.
        until = time.monotonic() + DELIVERY_SECONDS
        while self.alerts.silent(self.stand.lake, self.receiver.received) and time.monotonic() < until:
            time.sleep(0.2)
        result.add(self.alerts.judge(self.stand.lake, self.receiver.received))
        result.add(check_deliveries(self.stand.lake, self.hostile))
        changes = (BANK, shop(self.stand.shop_database))
        result.add(check_against_oracle(self.stand.lake, self.stand.cards, changes))
        if gold:
            scratch = self.stand.home / "recomputed"
            shutil.rmtree(scratch, ignore_errors=True)
            result.add(judge_gold(self.stand.lake, scratch, self.stand.pipeline))
        return result

    def check_last_deliveries(self) -> Verdict:
        """Every recorded alert reaches the hostile destination too, now that it is honest."""
        result = Verdict()
        recorded = self.alerts.silent(self.stand.lake, [])
        until = time.monotonic() + LAST_DELIVERY_SECONDS
        self.live()
        while (missing := recorded - set(self.hostile.accepted)) and time.monotonic() < until:
            time.sleep(0.5)
        result.checked += len(recorded)
        if missing:
            result.wrong(f"{len(missing)} alerts never reached the hostile destination", missing_alerts=len(missing))
        return result

    def _commits(self) -> int:
        """Grows with each commit to a bronze table."""
        logs = Path(self.stand.lake.root).glob("bronze/*/_delta_log")
        return sum(max((int(entry.stem) for entry in log.glob("*.json")), default=0) for log in logs)

    def _wait_landing(self, live: Product, before: int, began: float) -> None:
        while self._commits() == before:
            if not live.running or time.monotonic() - began > 120:
                raise ProductError(f"nothing was landed after the restart: {live.output[-2000:]}")
            time.sleep(0.02)
        if self._killed:
            self.recoveries.append(time.monotonic() - began)
            self._killed = False
