"""Whether flags, features, late rows, windows and alerts are what the oracle computes from bronze."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl

from fraud_lakehouse.storage.lake import Lake
from tests.soak.bronze_verdict import Verdict
from tests.soak.cards import PINNED, CardStream
from tests.soak.oracle import Features, LedgerState, Payment, card_features, closed_windows, late_ids
from tests.soak.shop import STREAM

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_FEATURES = ("prior_mean", "prior_count", "count_10min", "sum_10min", "user_exists")
_SHOWN = 3
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Changes:
    """A stream of changes.

    Args:
        source: what its alerts have as source.
        payments, columns: its bronze table, and there key, user, time and amount.
        users, user: the bronze table that knows its users, and its key.
        features: its table in gold.
    """

    source: str
    payments: str
    columns: tuple[str, str, str, str]
    users: str
    user: str
    features: str


BANK = Changes(
    "postgres.transactions",
    "transactions",
    ("transaction_id", "user_id", "transaction_date", "amount"),
    "users",
    "user_id",
    "transaction_features",
)


def shop(source: str) -> Changes:
    """The shop's payments.

    Args:
        source: the name of its database.
    """
    columns = ("id", "account", "paid_at", "total")
    return Changes(f"{source}.shop_orders", "shop_orders", columns, "shop_users", "login", f"{STREAM}_features")


def check_against_oracle(lake: Lake, cards: CardStream, changes: Sequence[Changes]) -> Verdict:
    """Compare silver and gold with the oracle. The lake must be settled, and bronze right.

    Args:
        changes: the streams of changes.

    Features and alerts of cards are compared for users whose payments are all in one partition: for others the order
    of arrival is not known from the source alone.
    """
    result = Verdict()
    payments = _card_payments(lake, cards)
    late = late_ids(payments)
    all_cards = card_features(payments)
    pinned = {key: one for key, one in all_cards.items() if one.payment.user is None or one.payment.user in PINNED}
    _compare(result, "silver/card_transactions", _flags(all_cards), _stored_flags(lake))

    stored = _stored_features(lake, "card_transaction_features", "transaction_id")
    wanted = {(key,): _plain(one) for key, one in pinned.items()}
    _compare(result, "gold/card_transaction_features", wanted, {key: stored[key] for key in stored if key[0] in pinned})
    by_source = {f"kafka.{cards.topic}": [*pinned.values()]}
    for stream in changes:
        ledger = _ledger_features(lake, stream)
        wanted = {key: _plain(one) for key, one in ledger.items()}
        found = _stored_features(lake, stream.features, "_lsn", "_seq")
        _compare(result, f"gold/{stream.features}", wanted, found)
        by_source[stream.source] = [*ledger.values()]

    late_rows = _read(lake, "silver", "card_transactions_late")["trans_num"]
    _compare(result, "silver/card_transactions_late", dict.fromkeys(late, ()), dict.fromkeys(late_rows, ()))
    columns = ("window_start", "user_id", "user_trans_count_last_360min", "user_mean_trans_amt_last_360min")
    rows = _read(lake, "gold", "user_trans_amt_last_360min_windowed").select(columns).iter_rows()
    windows = {(start, user): (count, mean) for start, user, count, mean in rows}
    _compare(result, "gold/user_trans_amt_last_360min_windowed", closed_windows(payments, late), windows)

    _compare_alerts(result, lake, by_source)
    return result


def _card_payments(lake: Lake, cards: CardStream) -> list[Payment]:
    """Good records, by partition and offset."""
    frame = pl.read_delta(lake.uri("bronze", "card_transactions")).filter(
        pl.col("_error").is_null(), pl.col("_topic") == cards.topic
    )
    return [
        Payment(
            row["trans_num"] or f"{cards.topic}/{row['_partition']}/{row['_offset']}",
            row["user_id"],
            (row["amt"] is not None, row["trans_date_trans_time"] is not None),
            None if row["amt"] is None else Decimal(repr(row["amt"])),
            _time(row["trans_date_trans_time"]),
            row["_timestamp"],
            row["_partition"],
        )
        for row in frame.sort("_partition", "_offset").iter_rows(named=True)
    ]


def _time(text: str | None) -> datetime | None:
    if text is None or not _TIME.fullmatch(text):
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 (event times have no zone)
    except ValueError:
        return None


def _ledger_features(lake: Lake, stream: Changes) -> dict[Key, Features]:
    """By LSN and sequence, the features of each version of a PostgreSQL payment."""
    users = set(pl.read_delta(lake.uri("bronze", stream.users))[stream.user].drop_nulls())
    id_column, user_column, time_column, amount_column = stream.columns
    state = LedgerState(users)
    found: dict[Key, Features] = {}
    frame = pl.read_delta(lake.uri("bronze", stream.payments)).sort("_lsn", "_seq")
    for row in frame.iter_rows(named=True):
        key, exact = row[id_column], json.loads(row["_text"] or "{}")
        amount, time = row[amount_column], row[time_column]
        given = (amount is not None or amount_column in exact, time is not None)
        amount = amount if amount_column not in exact else Decimal(exact[amount_column])
        time = time.astimezone(UTC).replace(tzinfo=None) if time is not None and time.tzinfo is not None else time
        payment = None
        if row["_op"] != "d":
            finite = amount if amount is not None and amount.is_finite() else None
            payment = Payment(str(key), row[user_column], given, finite, time, row["_committed_at"])
        if (features := state.apply(key, payment)) is not None:
            found[row["_lsn"], row["_seq"]] = features
    return found


def _flags(features: Mapping[str, Features]) -> dict[Key, Key]:
    payments = (one.payment for one in features.values())
    return {(one.id,): (one.is_amount_excluded, one.is_time_excluded) for one in payments}


def _stored_flags(lake: Lake) -> dict[Key, Key]:
    names = ("is_amount_excluded", "is_time_excluded")
    rows = _read(lake, "silver", "card_transactions").iter_rows(named=True)
    return {(row["trans_num"],): tuple(bool(row.get(name)) for name in names) for row in rows}


def _plain(features: Features) -> Key:
    return tuple(getattr(features, name) for name in _FEATURES)


def _stored_features(lake: Lake, table: str, *key: str) -> dict[Key, Key]:
    rows = _read(lake, "gold", table).select(*key, *_FEATURES).iter_rows()
    return {row[: len(key)]: row[len(key) :] for row in rows}


def _compare_alerts(result: Verdict, lake: Lake, features: Mapping[str, list[Features]]) -> None:
    wanted = {
        (rule, source, one.payment.id) for source, all_of in features.items() for one in all_of for rule in one.rules
    }
    known = {(source, one.payment.id) for source, all_of in features.items() for one in all_of}
    recorded = _read(lake, "gold", "alerts").select("rule", "source", "transaction_id").rows()
    fired = {(rule, source, payment) for rule, source, payment in recorded if (source, payment) in known}
    result.checked += len(fired)
    if missing := wanted - fired:
        result.wrong(f"{len(missing)} alerts did not fire: {sorted(missing)[:_SHOWN]}", missing_alerts=len(missing))
    if surplus := fired - wanted:
        result.wrong(f"{len(surplus)} alerts should not have fired: {sorted(surplus)[:_SHOWN]}", doubled=len(surplus))


def _compare(result: Verdict, name: str, wanted: Mapping[Any, Key], stored: Mapping[Any, Key]) -> None:
    """Rows by key; numbers within 1e-6."""
    result.checked += len(stored)
    if missing := wanted.keys() - stored.keys():
        result.wrong(f"{name}: {len(missing)} rows are missing: {list(missing)[:_SHOWN]}", lost=len(missing))
    if surplus := stored.keys() - wanted.keys():
        result.wrong(f"{name}: {len(surplus)} rows should not be there: {list(surplus)[:_SHOWN]}", doubled=len(surplus))
    other = [key for key in wanted.keys() & stored.keys() if not all(map(_is_same, wanted[key], stored[key]))]
    if other:
        shown = [(key, f"oracle {wanted[key]}", f"lake {stored[key]}") for key in other[:_SHOWN]]
        result.wrong(f"{name}: {len(other)} rows are not what the oracle says: {shown}", lost=len(other))


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * max(1.0, abs(one))
    return bool(one == other)


def _read(lake: Lake, layer: str, table: str) -> pl.DataFrame:
    return pl.read_delta(lake.uri(layer, table))
