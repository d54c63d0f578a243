"""The messages: exactly the reference's keys in its order; what is beyond it stands in headers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl
import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.sinks.kafka import errors
from fraud_lakehouse.sinks.kafka.feature_topic import FeatureTopic, Message, feature_topics
from fraud_lakehouse.sinks.kafka.rebuilt import differences
from fraud_lakehouse.sinks.kafka.topic_content import Content, _keep, _newest
from tests.published import OVER, SCHEMAS, TUMBLE, Row, window_row


def messages(topic: FeatureTopic, rows: list[Row], epoch: int = 0) -> list[Message]:
    frame = pl.DataFrame(rows, schema=SCHEMAS[topic.table]).select(topic.columns)
    return list(topic.messages(frame, "lake-1", epoch))


def test_a_message_of_over_is_the_reference_s() -> None:
    row = {
        "trans_num": "dbf31d83",
        "user_id": -8800824711477190666,
        "trans_date_trans_time": datetime(2012, 1, 29, 3, 28, 51),  # noqa: DTZ001 event times have no zone
        "user_mean_trans_amt_last_360min": 70.93999999999998,
        "user_trans_count_last_360min": 2,
        "version": 1,
    }
    [message] = messages(OVER, [row])
    assert message.value == (
        b'{"user_id":-8800824711477190666,"user_mean_trans_amt_last_360min":70.93999999999998,'
        b'"user_trans_count_last_360min":2,"trans_date_trans_time":"2012-01-29 03:28:51"}'
    )
    assert message.key == b"-8800824711477190666"
    assert message.headers == [("version", b"1"), ("lake", b"lake-1"), ("trans_num", b"dbf31d83")]


def test_a_withdrawn_window_says_so_in_a_header() -> None:
    reported, withdrawn = messages(TUMBLE, [window_row(5), window_row(7, version=3, is_deleted=True)], epoch=2)
    assert reported.value == (
        b'{"window_start":"2024-01-01 06:00:00","window_end":"2024-01-01 12:00:00","user_id":1,'
        b'"user_mean_trans_amt_last_360min":0.7142857142857143,"user_trans_count_last_360min":1}'
    )
    assert (reported.key, dict(reported.headers)) == (b"1", {"version": b"1", "lake": b"lake-1", "epoch": b"2"})
    assert withdrawn.key is None
    assert dict(withdrawn.headers)["deleted"] == b"true"
    assert b'"user_id":null' in withdrawn.value


def test_a_fraction_of_a_second_is_not_lost() -> None:
    moment = datetime(2024, 1, 1, 0, 0, 1, 5)  # noqa: DTZ001 event times have no zone
    [message] = messages(OVER, [{"trans_num": "a", "trans_date_trans_time": moment, "version": 1}])
    assert b'"trans_date_trans_time":"2024-01-01 00:00:01.000005"' in message.value


def test_topics_have_the_prefix() -> None:
    assert [topic.name for topic in feature_topics("bank.")] == [
        "bank.user_trans_amt_last_360min",
        "bank.user_trans_amt_last_360min_windowed",
    ]


class _Record:
    """A consumed message."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def value(self) -> bytes:
        return self._message.value

    def headers(self) -> list[tuple[str, bytes]]:
        return self._message.headers


def content(topic: FeatureTopic, given: list[Message]) -> Content:
    rows: list[dict[str, Any]] = []
    for message in given:
        _keep(rows, _Record(message), "lake-1")
    return Content(len(rows), _newest(rows, topic))


_states = st.dictionaries(st.integers(0, 11), st.tuples(st.integers(0, 2), st.booleans()), max_size=8)


@given(before=_states, after=_states)
@settings(max_examples=60, deadline=None)
def test_after_the_differences_the_topic_says_what_a_table_built_anew_says(before: Any, after: Any) -> None:
    """From any state to any other, and a second look finds no difference."""

    def rows(states: Any) -> list[Row]:
        return [
            window_row(number, user_mean_trans_amt_last_360min=value / 3, is_deleted=deleted)
            for number, (value, deleted) in states.items()
        ]

    table = pl.DataFrame(rows(after), schema=SCHEMAS[TUMBLE.table]).select(TUMBLE.columns)
    published = messages(TUMBLE, rows(before))
    wanted = differences(table, content(TUMBLE, published), TUMBLE)
    published += list(TUMBLE.messages(wanted, "lake-1", 1))
    output = content(TUMBLE, published)
    alive = {number: value for number, (value, deleted) in after.items() if not deleted}
    assert sorted(output.newest.filter(~pl.col("is_deleted"))["user_mean_trans_amt_last_360min"]) == sorted(
        value / 3 for value in alive.values()
    )
    same = {n for n in alive if n in before and not before[n][1] and before[n][0] == after[n][0]}
    gone = {n for n, (_, deleted) in before.items() if not deleted and n not in alive}
    assert wanted.height == len(alive) - len(same) + len(gone)
    assert differences(table, output, TUMBLE).is_empty()


def test_other_lakes_messages_do_not_count() -> None:
    frame = pl.DataFrame([window_row(1)], schema=SCHEMAS[TUMBLE.table]).select(TUMBLE.columns)
    assert content(TUMBLE, list(TUMBLE.messages(frame, "lake-1", 0))).count == 1
    assert content(TUMBLE, list(TUMBLE.messages(frame, "lake-2", 0))).count == 0


@pytest.mark.parametrize(
    "code, kind, words",
    [
        (KafkaError._FENCED, errors.FencedError, "two processes"),
        (KafkaError.INVALID_PRODUCER_EPOCH, errors.FencedError, "taken over"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, errors.PublishNotAllowedError, "WRITE and DESCRIBE on topic out"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, errors.PublishNotAllowedError, "READ on group g"),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, errors.PublishNotAllowedError, "transactional id i"),
        (KafkaError._UNSUPPORTED_FEATURE, errors.TransactionsUnsupportedError, "FRAUD_PUBLISH_FEATURES=false"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, errors.OutputTopicMissingError, "--create --topic out"),
        (KafkaError._TIMED_OUT, errors.PublishError, "is retried"),
    ],
)
def test_each_refusal_says_what_to_do(code: int, kind: type[Exception], words: str) -> None:
    reported = errors.publish_error(KafkaException(KafkaError(code)), "b:1", "out", "i", "g")
    assert type(reported) is kind
    assert words in str(reported)
    assert reported.exit_code == 8
