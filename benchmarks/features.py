"""Features from silver Delta to gold Delta through their lanes, each beside the same work done by plain DuckDB.

OVER and TUMBLE of 360 minutes over 1,000,000 card payments of 10,000 users: seconds of the model that holds the feature
(and of the table of versions it is made from), against DuckDB's own SQL over the same Parquet, writing Parquet. Then
the whole catalogue over 1,750,000 payments (5,000 users, 10,000 merchants, 183 days): wall and CPU seconds and peak
memory of one process, against the floor: reading the rows and writing as many columns; and of 5,000 payments more, from
which that process then builds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import duckdb
from deltalake import WriterProperties, write_deltalake

from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.project import current_catalogue, shipped_project
from fraud_lakehouse.transform.runner import Transformer
from fraud_lakehouse.transform.writer import ROW_GROUP_ROWS

MODELS = {
    "over": ["user_trans_amt_last_360min_versions", "user_trans_amt_last_360min"],
    "tumble": ["user_trans_amt_last_360min_windowed_versions", "user_trans_amt_last_360min_windowed"],
}
PLAIN = {
    "over": """
        select
            trans_num, user_id, trans_date_trans_time,
            avg(amt) over last_360min as user_mean_trans_amt_last_360min,
            count(amt) over last_360min as user_trans_count_last_360min
        from cards
        window last_360min as (
            partition by user_id order by trans_date_trans_time
            range between interval 360 minutes preceding and current row
        )""",
    "tumble": """
        select
            time_bucket(interval 360 minutes, trans_date_trans_time, timestamp '1970-01-01') as window_start,
            window_start + interval 360 minutes as window_end,
            user_id,
            avg(amt) as user_mean_trans_amt_last_360min,
            count(amt) as user_trans_count_last_360min
        from cards
        group by all""",
}
CARDS = """
    select
        lpad(to_hex(n), 32, '0') as trans_num,
        cast(user_id as bigint) as user_id,
        cast(4000000000000000 + user_id * 2 + cast(random() < 0.2 as int) as bigint) as cc_num,
        timestamp '2024-01-01' + to_seconds(n * {days} * 86400 // {rows} + floor(random() * 10))
            as trans_date_trans_time,
        round(exp(3 + 1.2 * sqrt(-2 * ln(1 - random())) * cos(6.28318 * random())), 2) as amt,
        'fraud_Merchant ' || cast(merchant as varchar) as merchant,
        'category ' || cast(merchant % 14 as varchar) as category,
        'First' as first, 'Last' as last, date '1980-01-01' as dob, '53186' as zipcode, cast(0 as bigint) as is_fraud,
        'transaction' as _topic, cast(0 as int) as _partition, cast(n as bigint) as _offset,
        timestamptz '2024-01-01 00:00:00+00' + to_seconds(n) as _timestamp,
        timestamptz '2026-01-01 00:00:00+00' + to_seconds({first}) as _ingested_at
    from (
        -- seven payments in ten go to one of the holder's own twenty merchants
        select
            n, user_id,
            case when random() < 0.7
                then (user_id * 37 + cast(floor(random() * random() * 20) as int) * 101) % {merchants}
                else cast(floor(random() * {merchants}) as int) end as merchant
        from (select range as n, cast(floor(random() * {users}) as int) as user_id from range({first}, {end}))
    )
    order by n"""


NEW_ROWS = 5_000
CATALOGUE = {"users": 5_000, "merchants": 10_000, "days": 183}


def land(root: Path, first: int, count: int, rows: int, users: int, merchants: int, days: int) -> None:
    """Add `count` payments to silver/card_transactions, from number `first` of `rows` on, which last `days`."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("select setseed(0.42)").fetchall()
        end = first + count
        sql = CARDS.format(first=first, end=end, rows=rows, users=users, merchants=merchants, days=days)
        # as silver's own builds write it
        as_built = WriterProperties(compression="SNAPPY", max_row_group_size=ROW_GROUP_ROWS)
        found = connection.sql(sql).to_arrow_reader(100_000)
        table = root / "silver" / "card_transactions"
        write_deltalake(str(table), found, mode="append", writer_properties=as_built)


def silver(root: Path, rows: int, users: int, merchants: int, days: int) -> list[str]:
    """Write silver/card_transactions; answers its Parquet files."""
    land(root, 0, rows, rows, users, merchants, days)
    return [str(path) for path in sorted((root / "silver" / "card_transactions").glob("*.parquet"))]


def transformer(root: Path, memory: str) -> Transformer:
    work = root.parent / f"{root.name}-work"
    work.mkdir(exist_ok=True)
    built = Transformer(load_settings(lake=str(root), work=work, duckdb_memory=memory))
    built.build(["card_transactions", "card_transactions_late"], tests=False).raise_for_errors()
    return built


def plain(sql: str, files: list[str], target: Path, memory: str = "1GB") -> float:
    """Seconds of DuckDB alone, from Parquet to Parquet, with the settings of the lanes."""
    with duckdb.connect() as connection:
        connection.execute(f"set memory_limit = '{memory}'")
        connection.from_parquet(files).create_view("cards")
        started = time.monotonic()
        connection.execute(f"copy ({sql}) to '{target}' (format parquet)")
        return time.monotonic() - started


def windows(folder: Path, rows: int, users: int, repeats: int) -> dict[str, float]:
    """Medians of seconds: the lane's models and plain DuckDB, taken in turn."""
    root = folder / "windows"
    files = silver(root, rows, users, merchants=700, days=90)
    built = transformer(root, "1GB")
    figures: dict[str, float] = {}
    for name, models in MODELS.items():
        chosen = [model for model in models if list((shipped_project() / "models").glob(f"*/{model}.sql"))]
        ours, versions, theirs = [], [], []
        for _ in range(repeats):
            for model in chosen:
                shutil.rmtree(root / "gold" / model, ignore_errors=True)
            result = built.build(chosen, tests=False)
            result.raise_for_errors()
            seconds = {node.name: node.seconds for node in result.nodes}
            ours.append(sum(seconds[model] for model in chosen))
            versions.append(seconds[chosen[0]])
            theirs.append(plain(PLAIN[name], files, folder / "plain.parquet"))
        figures |= {f"{name}_seconds": median(ours), f"{name}_first_table_seconds": median(versions)}
        figures |= {f"{name}_plain_duckdb_seconds": median(theirs), f"{name}_ratio": median(ours) / median(theirs)}
        figures[f"{name}_first_table_ratio"] = median(versions) / median(theirs)
    built.close()
    return figures


def catalogue(root: Path, rows: int, memory: str) -> dict[str, float]:
    """Run in a process of its own: build gold/card_feature_vectors from nothing, then from NEW_ROWS more."""
    built = transformer(root, memory)
    figures = timed(built, "catalogue")
    figures["catalogue_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000
    land(root, rows, NEW_ROWS, rows, **CATALOGUE)
    figures |= timed(built, "new")
    built.close()
    return figures


def timed(built: Transformer, name: str) -> dict[str, float]:
    """Seconds of a build of the vectors, and how many it yielded."""
    started, cpu = time.monotonic(), time.process_time()
    result = built.build(["card_feature_vectors"], tests=False)
    result.raise_for_errors()
    return {
        f"{name}_seconds": time.monotonic() - started,
        f"{name}_cpu_seconds": time.process_time() - cpu,
        f"{name}_rows": result.rows("card_feature_vectors"),
    }


def floor(files: list[str], target: Path) -> float:
    """Seconds to read the rows and write as many columns of as many kinds, by DuckDB alone."""
    catalogue = current_catalogue(load_settings())
    assert catalogue is not None
    features = catalogue.of_table("card_feature_vectors")
    columns = [
        f"cast(hash(_offset + {number}) % {number + 3} as integer)"
        if feature.data_type == "integer"
        else f"amt * {number} / 7"
        for number, feature in enumerate(features)
    ]
    chosen = ", ".join(f"{column} as c{number}" for number, column in enumerate(columns))
    return plain(f"select trans_num, trans_date_trans_time, {chosen} from cards", files, target, "3GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--catalogue-rows", type=int, default=1_750_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", default="1500MB", help="DuckDB's memory limit for the catalogue")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(catalogue(options.build, options.catalogue_rows, options.memory)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {"rows": options.rows, "catalogue_input_rows": options.catalogue_rows}
        if options.rows:
            figures |= windows(folder, options.rows, 10_000, options.repeats)
        if options.catalogue_rows:
            root = folder / "catalogue"
            files = silver(root, options.catalogue_rows, **CATALOGUE)
            command = [sys.executable, __file__, "--build", str(root), "--memory", options.memory]
            command += ["--catalogue-rows", str(options.catalogue_rows)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            figures |= json.loads(output.splitlines()[-1])
            figures["floor_seconds"] = floor(files, folder / "floor.parquet")
    figures = {key: round(value, 2) if isinstance(value, float) else value for key, value in figures.items()}
    figures["load_average"] = round(os.getloadavg()[0], 1)
    print(json.dumps(figures) if options.json else "\n".join(f"{key}: {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
