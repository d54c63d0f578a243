"""Faults of the whole product, running as `fraud-lakehouse live`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fraud_lakehouse.live.duty_cycle import Rest
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.project import prepare_project
from tests.soak import landing_faults
from tests.soak.ledger import Ledger
from tests.soak.live_stand import KAFKA, POSTGRES, LiveStand
from tests.soak.shop import Shop, declare
from tests.soak.stand import DRAIN_ROWS, Stand


@dataclass(frozen=True)
class LiveFault:
    """One injection.

    Args:
        kind: for the report's counts.
        point: the failpoint that it arms, if any.
        rebuild: whether silver and gold must be recomputed from bronze after it.
    """

    name: str
    kind: str
    inject: Callable[[LiveStand], None]
    point: str = ""
    rebuild: bool = False


def killed_at(point: str) -> LiveFault:
    """SIGKILL at a failpoint, while both workloads go on."""

    def inject(life: LiveStand) -> None:
        product = life.live(point)
        with life.stand.working():
            product.wait_killed()
        life.killed()
        life.live()

    return LiveFault(f"live: kill at {point}", "kill -9 at a failpoint", inject, point)


def killed_beside_at(point: str) -> LiveFault:
    """SIGKILL at a failpoint that only the process beside the cycle comes by: the cycle lives on and replaces it."""

    def inject(life: LiveStand) -> None:
        Rest(life.stand.home / "work").end()  # it is to build at once
        product = life.live(point)
        with life.stand.working():
            product.wait_for("the background worker ended with code -9")
            assert product.running, product.output
        life.end()  # each process beside it is armed
        life.live()

    return LiveFault(f"live: kill at {point}, beside", "kill -9 at a failpoint", inject, point)


def killed_at_random(life: LiveStand) -> None:
    """SIGKILL at a time that the seed decides."""
    product = life.live()
    with life.stand.working():
        life.stand.pause(0.5, 3.0)
        product.kill()
    life.killed()
    life.live()


def disk_full(life: LiveStand) -> None:
    """No file may grow any more: the process ends, or goes on when there is space again."""
    product = life.live()
    with life.stand.working():
        life.stand.pause(0.3, 1.0)
        product.limit_files(life.stand.dice.randint(0, 6_000))
        life.stand.pause(1.0, 2.0)
        if product.running:
            product.limit_files(None)
    if not product.running:
        assert product.wait_ended() == 5, product.output
        life.killed()
        life.live()


def second_writer(life: LiveStand) -> None:
    """A catch-up is started while live runs, as from another machine: neither sees the other's locks."""
    product = life.live()
    with life.stand.working():
        life.stand.pause(0.2, 0.5)
    with life.stand.product("catch-up", work="elsewhere", rows=DRAIN_ROWS) as other:
        code = other.wait_ended()
    assert code == 0 or "another" in other.output, other.output
    assert product.running, product.output


def stopped_past_a_takeover(life: LiveStand) -> None:
    """SIGSTOP at a random moment; another machine's catch-up does all the work; then SIGCONT."""
    product = life.live()
    with life.stand.working():
        life.stand.pause(0.3, 1.0)
        product.pause()
    life.stand.work()
    code, output = catch_up_elsewhere(life)
    if code != 0 and "is in use by pid" in output:  # stopped while it read the slot: another machine may not end that
        life.stand.end_slot_reader()
        code, output = catch_up_elsewhere(life)
    assert code == 0, output
    life.stand.work()
    product.resume()
    with life.stand.working():
        life.stand.pause(0.5, 1.0)
    assert product.running, product.output


def second_database_unreachable(life: LiveStand) -> None:
    """The shop's database ends all sessions and accepts none for a while: rows and alerts of the others go on."""
    product = life.live()
    with life.stand.working():
        life.stand.pause(0.3, 0.8)
        with life.stand.servers.unreachable(life.stand.shop_database):
            life.check_alerts(POSTGRES, KAFKA)
            life.stand.pause(1.0, 3.0)
            life.check_alerts(POSTGRES, KAFKA)
    assert product.running, product.output
    life.go_on()
    life.check_alerts()


def catch_up_elsewhere(life: LiveStand) -> tuple[int, str]:
    """Exit code and output of another machine's catch-up."""
    with life.stand.product("catch-up", work="elsewhere", rows=DRAIN_ROWS) as other:
        return other.wait_ended(), other.output


def while_live(disturb: Callable[[Stand], None]) -> Callable[[LiveStand], None]:
    """A disturbance under which the process must live on."""

    def inject(life: LiveStand) -> None:
        product = life.live()
        with life.stand.working():
            life.stand.pause(0.3, 0.8)
            disturb(life.stand)
            life.go_on()
            life.stand.pause(0.2, 0.5)
        assert product.running, product.output

    return inject


KILLS = [
    killed_at(point)
    for point in (
        "model.card_transaction_features.before_commit",
        "model.transaction_features.after_commit",
        "model.alerts.after_commit",
        "alerts.after_answer",
    )
]
MORE_KILLS = [
    killed_at(point)
    for point in (
        "alerts.before_send",
        "alerts.after_journal",
        "alerts.after_record",
        "gold.before_parquet",
        "gold.after_parquet",
        "gold.before_commit",
        "gold.after_commit",
        "gold.after_fsync",
    )
]


@lru_cache(maxsize=1)
def stored_tables() -> dict[str, bool]:
    """The tables that dbt models store in a lake with the workloads' tables, by the project's manifest.

    Each with whether the cycle itself builds it (the hot lane), and not the process beside.
    """
    with tempfile.TemporaryDirectory() as empty:
        declare(pipeline := Path(empty) / "pipeline", "shop", "SHOP_DSN")
        settings = load_settings(lake=f"{empty}/lake", pipeline=pipeline)
        manifest = json.loads(prepare_project(settings).manifest_path.read_text())
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    tables = [workload.prefix + table for workload in (Ledger, Shop) for table in workload.tables]
    captured = {name: False for table in tables for name in (table, f"{table}_history")}
    return captured | {
        node["alias"]: "hot" in node["tags"] for node in models if node["config"]["materialized"] == "delta"
    }


@lru_cache(maxsize=1)
def model_kills() -> tuple[LiveFault, ...]:
    """SIGKILL around the commit of each model."""
    steps = ("before_commit", "after_commit", "after_fsync")
    return tuple(
        (killed_at if is_fast_path else killed_beside_at)(f"model.{table}.{step}")
        for table, is_fast_path in stored_tables().items()
        for step in steps
    )


DISTURBANCES = [
    LiveFault("live: kill at a random time", "kill -9 at a random time", killed_at_random),
    LiveFault(
        "live: PostgreSQL immediate stop",
        "PostgreSQL immediate stop and restart",
        while_live(landing_faults.postgres_crash),
    ),
    LiveFault("live: second writer", "second writer", second_writer),
    LiveFault("live: stopped past a takeover", "stopped past a takeover", stopped_past_a_takeover),
]
SECOND_DATABASE = LiveFault(
    "live: second database unreachable",
    "second database unreachable, alerts of the others go on",
    second_database_unreachable,
)
MORE_DISTURBANCES = [
    LiveFault("live: connection half open", "connection half open", while_live(landing_faults.connection_half_open)),
    LiveFault("live: connection cut", "connection cut", while_live(landing_faults.connection_cut)),
    LiveFault("live: connection frozen", "connection half open", while_live(landing_faults.connection_frozen)),
    LiveFault("live: broker frozen", "broker frozen", while_live(landing_faults.broker_frozen)),
    LiveFault("live: disk full", "disk full", disk_full),
    SECOND_DATABASE,
]
BROKER_RESTART = LiveFault("live: broker restart", "broker restart", while_live(landing_faults.broker_restart))
