"""What a soak did and found, in the form of a claim that can be checked."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version

from tests.soak.bronze_verdict import Verdict
from tests.soak.live_stand import LiveStand

_PACKAGES = ("deltalake", "polars", "duckdb", "dbt-core", "psycopg", "confluent-kafka")

UNTESTED = (
    "power loss: kill -9 leaves what the system has in its cache; flushing is tested by itself",
    "a network that drops packets without a word: the proxy can only freeze or reset connections",
    "two machines: the other machine is another work folder on this one",
    "a broker cluster: one node, so no change of leaders",
    "object stores",
    "a step of the machine's own clock: the product's processes read a shifted one, files keep their times",
    "hostile values and names in the second database: those faults are of the first one and of the topic",
    "changes of the tables' columns, and a resync that has something to do: their own tests kill those",
)


@dataclass
class Report:
    """Counts of one soak; filled while it runs.

    Args:
        seed: repeats the same workload and the same order of faults; not the same times.
        postgres, broker: versions.
    """

    seed: int
    postgres: str
    broker: str
    faults: Counter[str] = field(default_factory=Counter)
    result: Verdict = field(default_factory=Verdict)
    lives: int = 0
    transactions: int = 0
    shop_transactions: int = 0
    aborted: int = 0
    uncertain: int = 0
    records: int = 0
    alerts: int = 0
    seconds: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)
    alert_seconds: list[float] = field(default_factory=list)

    @property
    def injections(self) -> int:
        """Faults injected."""
        return self.faults.total()

    def add_life(self, life: LiveStand) -> None:
        """Count in the workload and the times of one lake."""
        ledger, shop = life.stand.ledger, life.stand.shop
        self.lives += 1
        self.transactions += len(ledger.committed)
        self.shop_transactions += len(shop.committed)
        self.aborted += ledger.aborted + shop.aborted
        self.uncertain += ledger.uncertain + shop.uncertain
        self.records += len(life.stand.cards.published)
        self.alerts += len(life.alerts)
        self.recoveries += life.recoveries
        self.takeovers += life.takeovers
        self.alert_seconds += life.alert_seconds

    def text(self) -> str:
        """The report as it is printed."""
        found = self.result
        packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
        committed = f"{self.transactions} transactions, {self.shop_transactions} in the second database"
        minutes = f"{self.seconds / 60:.0f} min, seed {self.seed}"
        lines = [
            f"runs       {self.lives} lakes, {self.injections} faults of {len(self.faults)} kinds, {minutes}",
            f"versions   PostgreSQL {self.postgres}; {self.broker}; Python {sys.version.split()[0]}; {packages}",
            f"machine    {platform.system()} {platform.release()} {platform.machine()}",
            f"committed  {committed}, {self.records} card records, {self.alerts} alerts",
            f"besides    {self.aborted} transactions rolled back, {self.uncertain} whose answer was lost",
            f"checked    {found.checked} rows, alerts and positions",
            f"lost {found.lost}, doubled {found.doubled}, reordered {found.reordered}",
            f"alerts missing {found.missing_alerts}",
            f"longest recovery, end of the cause (a kill: restart) to first new row: {_longest(self.recoveries)}",
            f"longest takeover of a hung process: {_longest(self.takeovers)}",
            f"longest wait for the alerts on payments committed in or after a fault: {_longest(self.alert_seconds)}",
            "faults by kind:",
            *(f"  {count:5} {kind}" for kind, count in sorted(self.faults.items())),
            "not tested:",
            *(f"  - {sentence}" for sentence in UNTESTED),
            *(f"WRONG: {problem}" for problem in found.problems),
        ]
        return "\n".join(lines)


def _longest(seconds: list[float]) -> str:
    return f"{max(seconds):.1f} s of {len(seconds)}" if seconds else "none measured"
