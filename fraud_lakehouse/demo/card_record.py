"""The card record published by demo and replay, as declared in the shipped `pipeline/sources.yml`."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]

_ENCODER = msgspec.json.Encoder()


class CardTransaction(msgspec.Struct, gc=False):
    """One record; fields are in the order of the written keys.

    `amt` takes integers as well as decimals; `is_fraud` is 0 or 1.
    """

    trans_date_trans_time: str
    cc_num: Int64
    merchant: str
    category: str
    amt: float
    first: str
    last: str
    zipcode: str
    dob: str
    trans_num: str
    is_fraud: Flag
    user_id: Int64


FIELDS = CardTransaction.__struct_fields__


def stable_user_id(last: str, first: str, dob: str) -> int:
    """The user's 64-bit signed id: BLAKE2b-64 of the three texts, each terminated by a zero byte, big-endian.

    The same on every machine and in every version; `dob` is the original text.
    """
    text = "".join(f"{part}\0" for part in (last, first, dob))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def encode(record: CardTransaction) -> bytes:
    """The record as compact JSON with its keys in the order of the fields."""
    return _ENCODER.encode(record)
