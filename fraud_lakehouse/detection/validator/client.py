"""One request to the validator: `POST <url>/validate`. Knows no lake.

The request is `{"transaction_id", "sender_bank_account", "receiver_details", "sender_bank", "amount"}`, where
`receiver_details` is the receiver as the text of a JSON object. The answer is a JSON object with the boolean
`is_fraudulent_transaction`; everything else in it is kept as it is.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from fraud_lakehouse.errors import SourceError

RESULT = "is_fraudulent_transaction"
REFUSALS = (400, 413, 422)
"""Statuses that concern the record: it would be refused again. Others concern the service, and are tried again."""
ANSWER_BYTES = 64 * 1024
KEPT_CHARACTERS = 4_000  # of an answer
_SHOWN_CHARACTERS = 300
PERSON = (
    *("id", "name", "address", "email", "birthdate", "phone_number", "job", "company", "ssn", "blood_group"),
    *("website", "username", "bank_account"),
)
"""The fields of a person, in the order in which they are sent."""


@dataclass(frozen=True)
class Judgement:
    """What the validator says of one transfer.

    Args:
        is_fraudulent: None if it refuses to judge the record.
        reason: why it refuses; else None.
        answer: its whole answer, shortened.
    """

    is_fraudulent: bool | None
    reason: str | None
    answer: str


class UnavailableError(SourceError):
    """The validator gave no usable answer; the transfer is sent again later.

    Args:
        kind: timeout, unreachable, nonsense, or such as "status 500": what is counted.
    """

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem, "check the validator and FRAUD_VALIDATOR_URL; its transfers wait and are sent again")
        self.kind = kind


class ValidatorClient:
    """Sends transfers, from several threads.

    Args:
        url: the service's address, without /validate; a user and password in it are sent as basic authentication.
        timeout: seconds to connect, and for the whole answer.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url.rstrip("/") + "/validate"
        self.timeout = timeout
        self._local = threading.local()

    def judge(self, transfer: Mapping[str, Any]) -> Judgement:
        """Send one transfer.

        Args:
            transfer: a row of silver/bank_transfers.

        Raises:
            UnavailableError: there was no usable answer in time.
        """
        try:
            status, content = self._post(request_of(transfer), str(transfer["transaction_id"]))
        except (requests.Timeout, TimeoutError):
            raise UnavailableError("timeout", f"the validator did not answer within {self.timeout:g} s") from None
        except (requests.RequestException, HTTPError, OSError) as error:
            raise UnavailableError("unreachable", f"the validator cannot be reached: {type(error).__name__}") from None
        text = content.decode("utf-8", "replace")
        if status in REFUSALS:
            return Judgement(None, f"status {status}: {text[:_SHOWN_CHARACTERS]}", text[:KEPT_CHARACTERS])
        if status != 200:
            raise UnavailableError(f"status {status}", f"the validator answers with status {status}, expected 200")
        return _parsed(text)

    def _post(self, body: bytes, key: str) -> tuple[int, bytes]:
        """Status and content of the answer; its end is not waited for beyond the timeout.

        Raises:
            requests.RequestException, HTTPError, OSError: there is none.
        """
        session = self._session()
        deadline = time.monotonic() + self.timeout
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Idempotency-Key": key}
        with session.post(
            self._url, body, headers=headers, timeout=self.timeout, stream=True, allow_redirects=False
        ) as answer:
            content = b""
            while len(content) < ANSWER_BYTES and (piece := answer.raw.read1(ANSWER_BYTES, decode_content=True)):
                content += piece
                if time.monotonic() > deadline:
                    raise TimeoutError
            return answer.status_code, content

    def _session(self) -> requests.Session:
        """The thread's own: a session is for one thread."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session


def request_of(transfer: Mapping[str, Any]) -> bytes:
    """The body of the request for a row of silver/bank_transfers."""
    details = {name: transfer[f"receiver_{'own_account' if name == 'bank_account' else name}"] for name in PERSON}
    if details["website"] is not None:
        details["website"] = json.loads(details["website"])  # the column has its JSON text
    body = {
        "transaction_id": transfer["transaction_id"],
        "sender_bank_account": transfer["sender_bank_account"],
        "receiver_details": json.dumps(details, ensure_ascii=False),
        "sender_bank": transfer["sender_bank"],
        "amount": float(transfer["amount"]),
    }
    return json.dumps(body, ensure_ascii=False).encode()


def _parsed(text: str) -> Judgement:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    result = answer.get(RESULT) if isinstance(answer, dict) else None
    if not isinstance(result, bool):
        shown = text[:_SHOWN_CHARACTERS]
        raise UnavailableError(
            "nonsense", f"the validator answers {shown!r}, expected a JSON object with {RESULT} true or false"
        )
    return Judgement(result, None, text[:KEPT_CHARACTERS])
