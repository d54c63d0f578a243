"""Judges pending transfers: sends them, several at a time, and records each answer once.

Answers are appended to silver/transfer_judgements with the commit number up to which all transfers are judged, on the
handle whose positions were read: of two processes Delta rejects the second, which then reads again what is judged. A
process that is killed between answer and commit sends the transfer again; the lake has one judgement.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from fraud_lakehouse.detection.validator.breaker import Breaker
from fraud_lakehouse.detection.validator.client import Judgement, UnavailableError, ValidatorClient
from fraud_lakehouse.detection.validator.pending import JUDGEMENTS, Pending, Waiting
from fraud_lakehouse.detection.validator.state import save_state
from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import TURN_SECONDS, writer_lock

TABLE = JUDGEMENTS
COLUMNS: dict[str, pl.DataType] = {
    "transaction_id": pl.String(),
    "outcome": pl.String(),
    "is_fraudulent": pl.Boolean(),
    "reason": pl.String(),
    "answer": pl.String(),
    "attempts": pl.Int64(),
    "judged_at": pl.Datetime("us", "UTC"),
}
LOCK = "validator"
ROUND_SECONDS = 1.0  # after which no further transfer is sent, and the answers are committed
_PATIENCE = 3.0  # times a request's own limit, after which it is given up
_FENCE = "judgements"


def _judged_to(table_id: str) -> str:
    """The app id of the commit number up to which all transfers of a table are judged."""
    return f"judged:silver/bank_transfers:{table_id}"


@dataclass(frozen=True)
class _Answer:
    waiting: Waiting
    judgement: Judgement
    at: datetime


@dataclass
class Judging:
    """Judges the transfers of one lake; for one thread.

    Args:
        client: sends one transfer.
        concurrency: how many are sent at a time.
    """

    lake: Lake
    client: ValidatorClient
    concurrency: int = 8
    breaker: Breaker = field(default_factory=Breaker)
    failures: Counter[str] = field(default_factory=Counter)
    problem: str | None = None
    _pending: Pending | None = None
    _appender: Appender | None = None

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.concurrency, "validator")

    @property
    def waiting(self) -> int:
        """Transfers in memory that wait for a judgement."""
        return len(self._pending.waiting) if self._pending is not None else 0

    def step(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Send what is due for about a second, and record the answers; returns how many were recorded.

        Raises:
            LakeError: the lake cannot be read or written; nothing was recorded.
        """
        try:
            pending = self._read()
            if not self.breaker.may_try:
                return 0
            answers = self._ask(pending, stop)
            return self._record(pending, answers)
        except LakeError as error:
            self._pending = self._appender = None  # the handle may be past another process's commit: begin again
            if isinstance(error, ConcurrentWriterError):
                return 0
            raise

    def close(self) -> None:
        """End the threads; what they still send is not recorded."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self) -> Pending:
        if self._appender is None:
            self._appender = Appender.open(self.lake, *TABLE, COLUMNS)
        if self._pending is None:
            self._pending = Pending(self.lake)
            self._appender.position(_FENCE)
        appender = self._appender
        if not self._pending.read():
            appender.refresh()
            self._pending.begin(lambda table_id: appender.position(_judged_to(table_id)))
            self._pending.read()
        return self._pending

    def _ask(self, pending: Pending, stop: Callable[[], bool]) -> list[_Answer]:
        """Send transfers until the round is over, or the breaker opens. An open one admits a single request."""
        is_probe = not self.breaker.is_closed
        queue = list(pending.next(any_time=is_probe))[: 1 if is_probe else None]
        if not queue:
            return []
        until, lock, answers, rest = time.monotonic() + ROUND_SECONDS, threading.Lock(), list[_Answer](), iter(queue)
        sent: dict[str, Waiting] = {}

        def failed(transaction_id: str, kind: str, problem: str) -> None:
            self.breaker.failed()
            self.failures[kind] += 1
            self.problem = problem
            pending.put_off(transaction_id)

        def work() -> None:
            while not stop():
                with lock:
                    is_over = time.monotonic() > until or not (is_probe or self.breaker.is_closed)
                    one = None if is_over else next(rest, None)
                    if one is None:
                        return
                    one.attempts += 1
                    name = one.row["transaction_id"]
                    sent[name] = one
                failpoint("validator.before_request")
                try:
                    judgement = self.client.judge(one.row)
                except UnavailableError as error:
                    with lock:
                        if sent.pop(name, None) is not None:
                            failed(name, error.kind, error.problem)
                else:
                    self.breaker.succeeded()
                    with lock:
                        if sent.pop(name, None) is not None:
                            self.problem = None
                            answers.append(_Answer(one, judgement, datetime.now(UTC)))

        threads = [self._pool.submit(work) for _ in range(1 if is_probe else self.concurrency)]
        ended, stuck = wait(threads, ROUND_SECONDS + _PATIENCE * self.client.timeout)
        for thread in ended:
            thread.result()
        with lock:
            if stuck:  # an answer that arrives byte by byte keeps each of a request's own limits
                for name in [*sent]:
                    del sent[name]
                    failed(name, "timeout", f"the validator did not answer within {self.client.timeout:g} s")
                self._pool.shutdown(wait=False)
                self._pool = ThreadPoolExecutor(self.concurrency, "validator")
            return list(answers)

    def _record(self, pending: Pending, answers: list[_Answer]) -> int:
        if not answers:
            return 0
        failpoint("validator.after_answer")
        assert self._appender is not None and pending.table_id is not None
        ids = {one.waiting.row["transaction_id"] for one in answers}
        rows = pl.DataFrame([_row(one) for one in answers], schema=COLUMNS)
        fence = (self._appender.position(_FENCE) or 0) + 1
        self._appender.append(rows, {_FENCE: fence, _judged_to(pending.table_id): pending.judged_to(ids)})
        pending.judged(ids)
        return len(ids)


@dataclass(frozen=True)
class Judged:
    """Result of judging what waited.

    Args:
        recorded: judgements recorded now.
        waiting: transfers that still wait, as far as they were read.
        problem: why the validator gave no answer, the last time.
    """

    recorded: int = 0
    waiting: int = 0
    problem: str | None = None


def opened(settings: Settings, lake: Lake) -> Judging | None:
    """The judging of a lake's transfers; None without FRAUD_VALIDATOR_URL."""
    if settings.validator_url is None:
        return None
    client = ValidatorClient(settings.validator_url.get_secret_value(), settings.validator_timeout)
    return Judging(lake, client, settings.validator_concurrency)


def judge_pending(settings: Settings, lake: Lake) -> Judged:
    """Judge every transfer that waits, once; without FRAUD_VALIDATOR_URL, none.

    Raises:
        LakeError: the lake cannot be read or written. ConcurrentWriterError: another process judges for too long.
    """
    judging = opened(settings, lake)
    if judging is None:
        return Judged()
    recorded = 0
    try:
        with writer_lock(settings.work_dir, TURN_SECONDS, LOCK):
            while now := judging.step():
                recorded += now
            save_state(settings.work_dir, judging.problem, judging.failures)
    finally:
        judging.close()
    return Judged(recorded, judging.waiting, judging.problem)


def _row(answer: _Answer) -> dict[str, Any]:
    judgement = answer.judgement
    return {
        "transaction_id": answer.waiting.row["transaction_id"],
        "outcome": "refused" if judgement.is_fraudulent is None else "judged",
        "is_fraudulent": judgement.is_fraudulent,
        "reason": judgement.reason,
        "answer": judgement.answer,
        "attempts": answer.waiting.attempts,
        "judged_at": answer.at,
    }
