"""catch-up of many small captured tables from nothing, and what they cost a live cycle that is not about them.

`--tables` tables of `--rows` rows, 3 to 8 columns of mixed types in another order each. Seconds and processor seconds
of each phase in this process: the snapshot into bronze, preparing and parsing the dbt project, building every replica
and history, the same build again with nothing new, and the status. Then the median of live cycles (one payment:
captured, scored) in this lake and in one with only the two tables of the bank. --catch-up measures the command
`fraud-lakehouse catch-up` from outside instead, with its peak memory. Yardstick in the same run: as many Delta tables
of as many rows, created and flushed with nothing around them.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import polars as pl
import psycopg
from catch_up import BANK, catch_up

from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.live.cycle import BUSY_FOLLOW_SECONDS, Cycle
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake

COLUMNS = {  # type -> an expression of the row's number
    "bigint": "g * 7",
    "int": "g % 13",
    "text": "'text ' || g",
    "varchar(40)": "md5(g::text)",
    "numeric(12,2)": "g * 1.25",
    "timestamp": "timestamp '2024-01-01' + g * interval '1 minute'",
    "timestamptz": "timestamptz '2024-01-01 00:00+00' + g * interval '1 hour'",
    "date": "date '2024-01-01' + g::int",
    "boolean": "g % 2 = 0",
    "double precision": "g / 3.0",
    "jsonb": "jsonb_build_object('n', g)",
    "uuid": "md5(g::text)::uuid",
}


def create_tables(dsn: str, tables: int, rows: int) -> None:
    """The bank's two tables with a few rows, and as many others."""
    chance = random.Random(0)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in BANK:
            connection.execute(statement)
        connection.execute("insert into users (name, email) select 'User', 'u@example.com' from generate_series(1, 20)")
        for number in range(tables):
            kinds = chance.choices(list(COLUMNS), k=chance.randint(2, 7))
            columns = "".join(f", c{place}_{number % 7} {kind}" for place, kind in enumerate(kinds))
            values = "".join(f", {COLUMNS[kind]}" for kind in kinds)
            connection.execute(f"create table small_{number:04} (id bigint primary key{columns})")
            connection.execute(f"insert into small_{number:04} select g{values} from generate_series(1, {rows}) g")


def bare_tables(home: Path, tables: int, rows: int) -> None:
    """The yardstick: as many Delta tables, each created and appended to once, durably."""
    lake, frame = Lake.at(home / "bare"), pl.DataFrame({"id": range(rows), "text": [f"text {n}" for n in range(rows)]})
    for number in range(tables):
        Appender.open(lake, "bronze", f"bare_{number}", dict(frame.schema)).append(frame, {})


class Phases:
    """Seconds and processor seconds of each phase.

    Args:
        profiles: a folder that takes a profile (cProfile) of each phase; none is made without.
    """

    def __init__(self, profiles: Path | None) -> None:
        self.figures: dict[str, float] = {}
        self._profiles = profiles

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens within."""
        profile = cProfile.Profile() if self._profiles else None
        started, cpu = time.monotonic(), time.process_time()
        if profile:
            profile.enable()
        yield
        if profile:
            profile.disable()
            assert self._profiles
            profile.dump_stats(self._profiles / f"{name}.prof")
        self.figures[f"{name}_seconds"] = round(time.monotonic() - started, 2)
        self.figures[f"{name}_cpu_seconds"] = round(time.process_time() - cpu, 2)
        print(
            f"{name}: {self.figures[f'{name}_seconds']} s, cpu {self.figures[f'{name}_cpu_seconds']}", file=sys.stderr
        )


def live_cycle(cycle: Cycle, dsn: str, times: int) -> dict[str, float]:
    """Median seconds, and processor seconds, of a cycle that captures and scores one payment, and of an idle one."""
    cycle.warm_up()
    taken, spent, idle = [], [], []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(times):
            connection.execute("insert into transactions (user_id, amount) values (1, 10)")
            started, cpu = time.monotonic(), time.process_time()
            landed = cycle.capture()
            while not landed:
                landed = cycle.capture()
            cycle.follow(cycle.run(landed), pause=BUSY_FOLLOW_SECONDS)
            taken.append(time.monotonic() - started)
            spent.append(time.process_time() - cpu)
            started = time.monotonic()
            cycle.capture()
            idle.append(time.monotonic() - started)
    return {
        "seconds": round(median(taken), 3),
        "cpu_seconds": round(median(spent), 3),
        "idle_capture_seconds": round(median(idle), 4),
    }


def in_phases(settings: Settings, dsn: str, options: argparse.Namespace) -> dict[str, float]:
    """The figures of a first build, phase by phase, then of live cycles."""
    phases = Phases(options.profiles)
    cycle = Cycle(settings)
    with phases.phase("snapshot"):
        while cycle.capture():
            pass
    with phases.phase("prepare"):
        cycle.transformer.reload()
    with phases.phase("build"):
        cycle.transformer.build_lane("all").raise_for_errors()
    with phases.phase("build_again"):
        cycle.transformer.build_lane("rest").raise_for_errors()
    with phases.phase("status"):
        collect(settings)
    with phases.phase("prepare_again"):
        cycle.transformer.reload()
    listed = {"postgres_tables": "public.users,public.transactions", "postgres_slot": "small"}
    small = Settings(**(settings.model_dump() | listed | {"lake": f"{settings.lake}_small"}))
    figures = phases.figures
    for name, measured in {"with_tables": cycle, "without": Cycle(small)}.items():
        while measured.capture():
            pass
        for figure, value in live_cycle(measured, dsn, options.cycles).items():
            figures[f"live_{name}_{figure}"] = value
    figures["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tables", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--catch-up", action="store_true", help="only the command, from outside")
    parser.add_argument("--profiles", type=Path, help="a folder for a cProfile of each phase")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EmbeddedPostgres(home) as postgres:
            dsn = postgres.create_database("bench")
            create_tables(dsn, options.tables, options.rows)
            started = time.monotonic()
            bare_tables(home, options.tables, options.rows)
            figures = {"tables": options.tables, "rows": options.rows}
            figures["bare_tables_seconds"] = round(time.monotonic() - started, 2)
            settings = Settings(lake=str(home / "lake"), postgres_dsn=dsn, cache=home / "cache")
            if options.catch_up:
                seconds, peak = catch_up(os.environ | settings.environment())
                figures |= {"catch_up_seconds": round(seconds, 1), "peak_mb": round(peak / 1e6)}
            else:
                figures |= in_phases(settings, dsn, options)
    figures["load_average"] = round(os.getloadavg()[0], 1)
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name.replace('_', ' ')}: {value:,}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
