"""`fraud-lakehouse replay`: publish a Sparkov-shaped CSV file to Kafka as 12-field JSON records.

The whole file is checked before the first record is published, because published records cannot be withdrawn. It is
read once: checked records wait in a temporary file, so that a pipe can be replayed as well.
"""

from __future__ import annotations

import csv
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from fraud_lakehouse.demo.card_record import FIELDS, CardTransaction, encode, stable_user_id
from fraud_lakehouse.errors import InputFileError, SettingsError, SourceError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.config import KafkaClients, reason_of, shipped_topic
from fraud_lakehouse.sources.kafka.topic import KafkaSource, TopicMissingError

COLUMNS = tuple(name for name in FIELDS if name not in ("zipcode", "user_id"))
"""Required columns, in addition to `zip` (or `zipcode`); others are ignored. `user_id` is computed if it is missing."""

STUCK_SECONDS = 30.0
REPORT_ROWS = 50
_TIME = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}", re.ASCII)
_LEADING_ZEROS = re.compile(r"^0+(?=\d)", re.ASCII)
_EXPECTED = {
    "cc_num": "a 64-bit integer",
    "user_id": "a 64-bit integer",
    "amt": "a finite decimal number",
    "is_fraud": "0 or 1",
    "trans_date_trans_time": "a time as YYYY-MM-DD HH:MM:SS",
}


class ReplayFileError(InputFileError):
    """The file cannot be read or is not Sparkov-shaped; nothing was published."""


@dataclass(frozen=True)
class ReplayResult:
    """The result: records acknowledged by the broker, the topic, wall time in seconds."""

    published: int
    topic: str
    seconds: float


def replay(
    settings: Settings,
    path: Path,
    rate: float | None = None,
    topic: str | None = None,
    report: Callable[[int, int], None] = lambda published, total: None,
) -> ReplayResult:
    """Publish the file's rows in order and wait until the broker has acknowledged each.

    Args:
        settings: the connection to Kafka.
        path: a CSV file with a header; columns as in `COLUMNS`.
        rate: records per second; None is as fast as possible.
        topic: default `settings.kafka_topic`; created with one partition if it does not exist.
        report: called every `REPORT_ROWS` records, and at the end, with how many of how many are published.

    Raises:
        ReplayFileError: the file is absent, not CSV, lacks a column or has a wrong value; names line and column.
        SourceError: the broker is unreachable, or did not acknowledge every record (gives the number it did).
    """
    if rate is not None and not rate > 0:
        raise SettingsError(
            f"--rate {rate:g}: expected a number of records per second above 0",
            "omit it to publish as fast as possible",
        )
    path, topic = Path(path), topic or settings.kafka_topic
    clients = KafkaClients(shipped_topic(settings))
    with tempfile.TemporaryFile() as checked:
        total = 0
        for record in records(path):
            checked.write(encode(record) + b"\n")
            total += 1
        checked.seek(0)
        source = KafkaSource(clients, topic)
        try:
            source.describe()
        except TopicMissingError:
            source.create()
        started = time.monotonic()
        values = (line.removesuffix(b"\n") for line in checked)
        published = _Publisher(clients, topic).publish(values, rate, lambda done: report(done, total))
    return ReplayResult(published, topic, time.monotonic() - started)


def records(path: Path) -> Iterator[CardTransaction]:
    """The file's rows as records, one by one.

    Raises:
        ReplayFileError: as `replay`, at the first line that is wrong.
    """
    reader = csv.reader(())
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if header is None:
                raise ReplayFileError(f"{path} is empty", f"expected a header with {', '.join(COLUMNS)}, zip")
            places = _places(path, header)
            for row in reader:
                line = reader.line_num
                if len(row) != len(header):
                    raise ReplayFileError(
                        f"{path}, line {line}: {len(row)} fields where the header has {len(header)}",
                        "expected comma-separated values, quoted if a value contains a comma",
                    )
                yield _record(path, line, {name: row[place] for name, place in places.items()})
    except OSError as error:
        raise ReplayFileError(f"cannot read {path}: {error.strerror or error}", "give a readable CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReplayFileError(
            f"{path}, near line {max(reader.line_num, 1)}: not CSV in UTF-8: {error}",
            "give a CSV file as the Sparkov generator writes it",
        ) from None


def _places(path: Path, header: list[str]) -> dict[str, int]:
    """Index in a row of each field that is read from the file."""
    found = {name: header.index(name) for name in COLUMNS if name in header}
    missing = [name for name in COLUMNS if name not in found]
    zipcode = next((name for name in ("zip", "zipcode") if name in header), None)
    if zipcode is None:
        missing.append("zip")
    else:
        found["zipcode"] = header.index(zipcode)
    if "user_id" in header:
        found["user_id"] = header.index("user_id")
    if missing:
        there = ", ".join(name or "(unnamed)" for name in header)
        raise ReplayFileError(
            f"{path}, line 1: no column {', '.join(missing)}; found: {there}",
            "expected the columns of a Sparkov file, any order, others ignored",
        )
    return found


def _record(path: Path, line: int, values: dict[str, str]) -> CardTransaction:
    numbers = {name: _LEADING_ZEROS.sub("", values[name]) for name in ("cc_num", "user_id") if name in values}
    computed = (
        {} if "user_id" in values else {"user_id": stable_user_id(values["last"], values["first"], values["dob"])}
    )
    try:
        record = msgspec.convert({**values, **numbers, **computed}, CardTransaction, strict=False)
    except msgspec.ValidationError as error:
        raise _wrong(path, line, str(error).rpartition("$.")[2].strip("`"), values) from None
    if not math.isfinite(record.amt):  # not representable in JSON
        raise _wrong(path, line, "amt", values)
    if not _is_time(record.trans_date_trans_time):
        raise _wrong(path, line, "trans_date_trans_time", values)
    return record


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _wrong(path: Path, line: int, column: str, values: dict[str, str]) -> ReplayFileError:
    return ReplayFileError(
        f"{path}, line {line}, column {column}: expected {_EXPECTED.get(column, 'text')}, "
        f"got {values.get(column, '')[:80]!r}",
        "correct the line; no record was published",
    )


class _Publisher:
    """Publishes records to one topic and counts what the broker acknowledged."""

    def __init__(self, clients: KafkaClients, topic: str) -> None:
        self._clients = clients
        self._topic = topic
        self._producer: Producer = clients.producer()
        self._sent = 0
        self._delivered = 0
        self._heard = time.monotonic()

    def publish(self, values: Iterable[bytes], rate: float | None, report: Callable[[int], None]) -> int:
        """Publish all, at most `rate` per second, wait for every acknowledgement and return their number."""
        started = time.monotonic()
        for value in values:
            if rate is not None:
                while (ahead := started + self._sent / rate - time.monotonic()) > 0:
                    self._producer.poll(min(ahead, 0.1))
            self._send(value)
            if self._sent % REPORT_ROWS == 0:
                report(self._delivered)
        while self._delivered < self._sent:
            self._wait()
        report(self._delivered)
        return self._delivered

    def _send(self, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, on_delivery=self._acknowledged)
            except BufferError:
                self._wait()
            except KafkaException as error:
                raise self._not_taken(reason_of(error).str()) from None
            else:
                self._sent += 1
                return

    def _wait(self) -> None:
        if self._producer.poll(0.1):
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > STUCK_SECONDS:
            raise self._not_taken(self._clients.last_error or f"no acknowledgement for {STUCK_SECONDS:.0f} s")

    def _acknowledged(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            raise self._not_taken(error.str())  # propagates through the poll that called us
        self._delivered += 1

    def _not_taken(self, reason: str) -> SourceError:
        self._producer.purge()  # publish nothing more after the error
        return SourceError(
            f"Kafka at {self._clients.bootstrap} took {self._delivered} records for topic {self._topic!r}, "
            f"then failed: {reason}",
            "see the broker's log, then replay again: records keep their trans_num, so none is counted twice",
        )
