"""A Sparkov file through Apache Kafka and back: both topics of the reference features equal brute force.

The file is generated; FRAUD_TEST_SPARKOV names another one to use instead.
"""

from __future__ import annotations

import csv
import os
import random
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fraud_lakehouse.demo.card_record import stable_user_id
from fraud_lakehouse.demo.replay import replay
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import load_settings
from tests.fixtures_kafka import Broker
from tests.published import OVER, TUMBLE, read_back

pytestmark = [pytest.mark.slow, pytest.mark.apache_kafka, pytest.mark.timeout(1200)]
SIX_HOURS, LATENESS = timedelta(hours=6), timedelta(seconds=15)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 event times have no zone
TIME = "%Y-%m-%d %H:%M:%S"
MEAN, COUNT = "user_mean_trans_amt_last_360min", "user_trans_count_last_360min"
COLUMNS = "trans_date_trans_time,cc_num,merchant,category,amt,first,last,zip,dob,trans_num,is_fraud".split(",")
Row = dict[str, Any]


def generated(path: Path, rows: int) -> Path:
    """Two days of payments of seven people: ties, exact distances of six hours, arrival out of order by up to 15 s."""
    rng = random.Random(2019)
    moment, records = datetime(2019, 1, 1, 0, 0, 18), []  # noqa: DTZ001
    for number in range(rows):
        moment += timedelta(seconds=rng.choice([0, 0, 60, 359, 360, 900, 21_600 if number % 40 == 39 else 1]))
        behind = timedelta(seconds=rng.choice([0, 0, 0, 14, 15]))
        person = rng.randrange(7)
        holder = (f"First{person}", f"Last{person}", "53186", "1988-03-09")
        bought = ("fraud_Kirlin and Sons", "gas_transport", rng.choice([1.07, 4.97, 107.23, 220.11]))
        time = (moment - behind).strftime(TIME)
        records.append([time, 4_428_780_000_000_000 + person, *bought, *holder, f"{number:032x}", 0])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *records])
    return path


def payments(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return [
            {
                "trans_num": row["trans_num"],
                "user_id": stable_user_id(row["last"], row["first"], row["dob"]),
                "t": datetime.strptime(row["trans_date_trans_time"], TIME),  # noqa: DTZ007
                "amt": float(row["amt"]),
            }
            for row in csv.DictReader(file)
        ]


def over(rows: list[Row]) -> dict[str, tuple[Any, ...]]:
    """By trans_num: user, time, mean and count over [t - 360 min, t]."""
    by_user = defaultdict(list)
    for row in rows:
        by_user[row["user_id"]].append(row)
    result = {}
    for row in rows:
        amounts = [other["amt"] for other in by_user[row["user_id"]] if row["t"] - SIX_HOURS <= other["t"] <= row["t"]]
        mean = pytest.approx(sum(amounts) / len(amounts), rel=1e-9)
        result[row["trans_num"]] = (row["user_id"], row["t"].strftime(TIME), mean, len(amounts))
    return result


def tumble(rows: list[Row]) -> dict[tuple[str, int], tuple[Any, ...]]:
    """By start and user: end, mean and count of the windows that the watermark has passed."""
    watermark = max(row["t"] for row in rows) - LATENESS
    windows = defaultdict(list)
    for row in rows:
        windows[EPOCH + (row["t"] - EPOCH) // SIX_HOURS * SIX_HOURS, row["user_id"]].append(row["amt"])
    return {
        (start.strftime(TIME), user): (
            (start + SIX_HOURS).strftime(TIME),
            pytest.approx(sum(amounts) / len(amounts), rel=1e-9),
            len(amounts),
        )
        for (start, user), amounts in windows.items()
        if start + SIX_HOURS <= watermark
    }


def newest(messages: list[tuple[str | None, Row, dict[str, str]]], key: Any) -> dict[Any, Row]:
    """The body of the newest version of each key; every version from 1 on is there once."""
    versions: dict[Any, dict[int, Row]] = defaultdict(dict)
    for _, body, headers in messages:
        version = int(headers["version"])
        assert version not in versions[key(body, headers)], "published twice"
        versions[key(body, headers)][version] = body
    assert all(set(found) == set(range(1, len(found) + 1)) for found in versions.values())
    return {name: found[max(found)] for name, found in versions.items()}


def test_both_topics_equal_brute_force(apache_kafka: Broker, tmp_path: Path) -> None:
    given = os.environ.get("FRAUD_TEST_SPARKOV")
    path = Path(given) if given else generated(tmp_path / "sparkov.csv", 700)
    rows, name = payments(path), uuid4().hex[:8]
    settings = load_settings(
        lake=str(tmp_path / "lake"),
        kafka_bootstrap_servers=apache_kafka.bootstrap,
        kafka_topic=f"transaction-{name}",
        batch_rows=len(rows) // 3 + 1,
        publish_features=True,
        publish_topic_prefix=f"{name}.",
    )
    for topic in (OVER, TUMBLE):
        apache_kafka.create(settings.publish_topic_prefix + topic.name, 3)
    assert replay(settings, path).published == len(rows)
    with Cycle(settings) as cycle:
        cycle.catch_up()
        cycle.catch_up()
    reported = newest(
        read_back(apache_kafka.bootstrap, settings.publish_topic_prefix + OVER.name), lambda _, at: at["trans_num"]
    )
    assert {
        trans_num: (body["user_id"], body["trans_date_trans_time"], body[MEAN], body[COUNT])
        for trans_num, body in reported.items()
    } == over(rows)
    windows = newest(
        read_back(apache_kafka.bootstrap, settings.publish_topic_prefix + TUMBLE.name),
        lambda body, _: (body["window_start"], body["user_id"]),
    )
    expected = tumble(rows)
    assert len(expected) > 20
    assert {window: (body["window_end"], body[MEAN], body[COUNT]) for window, body in windows.items()} == expected
