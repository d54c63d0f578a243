"""Faults of the landing half: what is done to it, and how it is seen that it was done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from fraud_lakehouse.errors import LakeError
from tests.patience import PATIENCE
from tests.soak.product import Product
from tests.soak.stand import Stand


@dataclass(frozen=True)
class Fault:
    """One injection: `kind` for the report's counts, `inject` does it and leaves the product ended.

    `point`: the failpoint that it arms, if any.
    """

    name: str
    kind: str
    inject: Callable[[Stand], None]
    point: str = ""


def killed_at(point: str, *arguments: str) -> Fault:
    """SIGKILL at a failpoint, while both workloads go on."""

    def inject(stand: Stand) -> None:
        stand.work()
        with stand.product("landing", *arguments, failpoint=point) as product, stand.working():
            product.wait_killed()
        stand.work(6)

    return Fault(" ".join(["kill at", point, *arguments]), "kill -9 at a failpoint", inject, point.partition(":")[0])


def stopped_at(point: str) -> Fault:
    """SIGSTOP at a failpoint; another process takes over and lands everything; then SIGCONT."""

    def inject(stand: Stand) -> None:
        stand.work()
        with stand.product("landing", failpoint=f"{point}:stop") as product:
            product.wait_stopped()
            stand.work(6)
            stand.drain()
            stand.work(6)
            product.resume()
            with stand.working():
                stand.pause(0.2, 0.4)
            ended_in_order(product)

    return Fault(f"stop at {point}, takeover, go on", "stopped past a takeover", inject, point)


def resync_killed_at(point: str) -> Fault:
    """SIGKILL in a resync of a lake that lacks nothing: neither it nor what follows may append a row for it."""

    def inject(stand: Stand) -> None:
        stand.work()
        source = stand.dice.choice(["bank", stand.shop_database])
        with stand.product("resync", "--source", source, failpoint=point) as product, stand.working():
            product.wait_killed()
        stand.work(6)

    return Fault(f"resync: kill at {point}", "kill -9 at a failpoint", inject, point.partition(":")[0])


def no_space_at(point: str) -> Fault:
    """The disk is full at a failpoint: the product ends and says so; the next start finds space."""

    def inject(stand: Stand) -> None:
        stand.work()
        with stand.product("landing", failpoint=f"{point}:enospc") as product, stand.working():
            code = product.wait_ended()
        assert code == LakeError.exit_code and "free space" in product.output, (code, product.output)

    return Fault(f"no space at {point}", "disk full", inject, point)


def killed_at_random(stand: Stand) -> None:
    """SIGKILL at a time that the seed decides."""
    with stand.product("landing") as product, stand.working():
        product.wait_for("ready")
        stand.pause(0.05, 0.9)
        product.kill()


def disk_full(stand: Stand) -> None:
    """No file may grow beyond some kilobytes from now on, then again as large as it likes."""
    with stand.product("landing") as product, stand.working():
        product.wait_for("ready")
        stand.pause(0.1, 0.4)
        product.limit_files(stand.dice.randint(0, 6_000))
        code = product.wait_ended()
    assert code == LakeError.exit_code and "LakeError" in product.output, (code, product.output)


def lake_read_only(stand: Stand) -> None:
    """Folders that may not be written: the product ends and says so."""
    stand.drain()
    stand.work()
    with stand.read_only(), stand.product("landing", obey=True) as product:
        code = product.wait_ended()
    assert code == LakeError.exit_code and "LakeError" in product.output, (code, product.output)


def second_writer(stand: Stand) -> None:
    """Two processes land into one lake from one slot, neither seeing the other's locks."""
    with stand.product("landing", work="here") as one, stand.product("landing", work="there") as other:
        with stand.working():
            one.wait_for("ready")
            other.wait_for("ready")
            stand.pause(1.0, 1.5)
        ended_in_order(one)
        ended_in_order(other)


def while_landing(disturb: Callable[[Stand], None]) -> Callable[[Stand], None]:
    """A disturbance under which the process must live on and land further rows."""

    def inject(stand: Stand) -> None:
        with stand.product("landing") as product, stand.working():
            product.wait_for("ready")
            stand.pause(0.1, 0.4)
            disturb(stand)
            stand.pause(0.2, 0.5)
            ended_in_order(product)

    return inject


def once(cut: Callable[[], int]) -> None:
    """Cut connections as soon as there are any: the process has several sources, and may not have come to this one."""
    deadline = time.monotonic() + PATIENCE
    while not cut():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def postgres_crash(stand: Stand) -> None:
    """An immediate stop of the server, and a start."""
    stand.servers.crash_postgres()


def sessions_ended(stand: Stand) -> None:
    """The server ends the product's sessions."""
    once(lambda: stand.servers.end_sessions(stand.database))


def connection_cut(stand: Stand) -> None:
    """Every connection to PostgreSQL is reset."""
    once(stand.servers.proxy.cut)


def connection_half_open(stand: Stand) -> None:
    """The product's side is reset, the server goes on believing in it for a while."""
    once(stand.servers.proxy.half_open)
    stand.pause(0.3, 0.6)
    stand.servers.proxy.heal()


def connection_frozen(stand: Stand) -> None:
    """Nothing passes for a second, then the connection is reset or comes back."""
    proxy = stand.servers.proxy
    proxy.freeze()
    with contextlib.suppress(IndexError):
        stand.pause(0.5, 1.0)
    if stand.dice.random() < 0.5:
        proxy.cut()
    proxy.heal()


def broker_frozen(stand: Stand) -> None:
    """The broker answers nothing for a second."""
    with stand.servers.frozen_broker():
        stand.pause(0.8, 1.5)


def broker_restart(stand: Stand) -> None:
    """The broker is killed and started again on its data."""
    stand.servers.broker.restart()


def ended_in_order(product: Product) -> None:
    """The process still lives and ends when asked."""
    assert product.running, product.output
    assert product.end() == 0, product.output


SNAPSHOT = [
    killed_at(point)
    for point in (
        "postgres.before_snapshot",
        "postgres.in_snapshot",
        "postgres.in_snapshot:3",
        "postgres.before_snapshot_position",
        "postgres.after_snapshot_position",
    )
]
"""Each on a lake of its own, which has no snapshot yet."""

LOG = [
    *(
        killed_at(point)
        for point in (
            "postgres.before_read:2",
            "postgres.after_read",
            "postgres.after_decode",
            "bronze.before_parquet",
            "bronze.after_parquet:2",
            "bronze.before_commit",
            "bronze.after_commit:2",
            "bronze.after_fsync",
            "postgres.before_position",
            "control.before_parquet",
            "control.after_parquet",
            "control.before_commit",
            "control.after_commit",
            "control.after_fsync",
            "postgres.before_acknowledge",
            "postgres.after_acknowledge",
            "kafka.before_read:2",
            "kafka.after_read",
            "kafka.after_decode",
            "kafka.before_group_commit",
            "kafka.after_group_commit",
        )
    ),
    *(
        killed_at(point, "--only", "cards")
        for point in ("bronze.after_parquet", "bronze.before_commit", "bronze.after_commit", "bronze.after_fsync")
    ),
    killed_at("compaction.before_commit", "--commits", "4"),
    killed_at("compaction.after_commit", "--commits", "4"),
    killed_at("checkpoint.before_write", "--commits", "4"),
    killed_at("checkpoint.after_write", "--commits", "4"),
    killed_at("upkeep.before_vacuum:2", "--upkeep"),
    killed_at("upkeep.after_vacuum:3", "--upkeep"),
    *(
        resync_killed_at(point)
        for point in ("resync.after_copy", "resync.before_commit:2", "resync.after_table", "resync.after_position")
    ),
    *(
        stopped_at(point)
        for point in ("bronze.before_commit", "postgres.before_position", "postgres.before_acknowledge")
    ),
    no_space_at("bronze.before_parquet"),
    no_space_at("control.before_commit"),
    *(Fault(f"kill at a random time {number}", "kill -9 at a random time", killed_at_random) for number in (1, 2)),
    Fault("disk full", "disk full", disk_full),
    Fault("lake read-only", "read-only lake", lake_read_only),
    Fault("second writer", "second writer", second_writer),
    Fault("PostgreSQL immediate stop", "PostgreSQL immediate stop and restart", while_landing(postgres_crash)),
    Fault("sessions ended by the server", "connection cut", while_landing(sessions_ended)),
    Fault("connection cut", "connection cut", while_landing(connection_cut)),
    Fault("connection half open", "connection half open", while_landing(connection_half_open)),
    Fault("connection frozen", "connection half open", while_landing(connection_frozen)),
    Fault("broker frozen", "broker frozen", while_landing(broker_frozen)),
]
"""On one lake, one after the other."""

APACHE = [
    Fault("broker restart", "broker restart", while_landing(broker_restart)),
    killed_at("kafka.after_decode:2"),
    killed_at("kafka.before_group_commit:2"),
    Fault("broker frozen", "broker frozen", while_landing(broker_frozen)),
]
"""With Apache Kafka: transactions, aborted ones among them, and a log that survives the broker."""
