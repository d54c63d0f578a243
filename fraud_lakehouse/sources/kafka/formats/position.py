"""Where in its database's log a change event lies, as two integers that rise with the order of the changes.

`_lsn` orders transactions as they were committed, `_seq` changes within one. A position never compares with that of
another connector. Neither do offsets decide: a connector that starts again writes events a second time.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_END = 2**63
_FILE = re.compile(r".*?(\d+)", re.DOTALL)
_TEXT = re.compile(r"-?[0-9]{1,19}")
_SERVER_LSN = re.compile(r"([0-9a-fA-F]{8}):([0-9a-fA-F]{8}):([0-9a-fA-F]{4})")
_SEQUENCE = msgspec.json.Decoder(list[str | None])


class Source(msgspec.Struct, kw_only=True, gc=False):
    """What is read of an event's source; UNSET where the event does not have it."""

    lsn: Any = msgspec.UNSET
    sequence: Any = msgspec.UNSET
    scn: Any = msgspec.UNSET
    commit_scn: Any = msgspec.UNSET
    file: Any = msgspec.UNSET
    pos: Any = msgspec.UNSET
    row: Any = msgspec.UNSET
    change_lsn: Any = msgspec.UNSET
    commit_lsn: Any = msgspec.UNSET
    event_serial_no: Any = msgspec.UNSET
    ts_ns: Any = msgspec.UNSET
    ts_us: Any = msgspec.UNSET
    ts_ms: Any = msgspec.UNSET


POSITION_NAMES = Source.__struct_fields__
"""What of an event's source is read."""


def position_of(source: Source) -> tuple[int | None, int | None]:
    """`_lsn` and `_seq` of an event.

    - PostgreSQL: the end of the transaction committed before (`sequence`; the change's own LSN before the first), and
      the change's LSN. Later changes of a row have higher ones also where only the LSN is known.
    - Oracle: `commit_scn` (of a snapshot `scn`) and `scn`.
    - MySQL, MariaDB: number of the log file times 2^32 plus `pos`, and `row`.
    - SQL Server: the first two parts of `change_lsn` (of a snapshot `commit_lsn`), and the third with
      `event_serial_no`.
    - others: the source's time in microseconds and 0; without one, none.

    Raises:
        ValueError: the event has such a position, but it cannot be read; it says which.
    """
    if source.lsn is not msgspec.UNSET:
        lsn = _integer("lsn", source.lsn)
        if isinstance(source.sequence, str):
            committed = _committed(source.sequence)
            return (lsn if committed is None else committed), lsn
        return lsn, lsn
    if source.scn is not msgspec.UNSET:
        scn = _integer("scn", source.scn if source.scn is not None else source.commit_scn)
        commit = source.commit_scn
        return (scn if commit in (None, msgspec.UNSET, "") else _integer("commit_scn", commit)), scn
    if source.file is not msgspec.UNSET:
        found = re.fullmatch(_FILE, str(source.file))
        if found is None:
            raise ValueError(f"source.file: expected a log file's name that ends with its number, got {source.file!r}")
        row = 0 if source.row in (None, msgspec.UNSET) else _integer("row", source.row)
        return _integer("file", int(found[1]) * 2**32 + _integer("pos", source.pos)), row
    if source.change_lsn is not msgspec.UNSET or source.commit_lsn is not msgspec.UNSET:
        text = source.commit_lsn if source.change_lsn in (None, msgspec.UNSET) else source.change_lsn
        found = _SERVER_LSN.fullmatch(str(text))
        if found is None:
            raise ValueError(f"source.change_lsn: expected three hexadecimal numbers, got {text!r}")
        log, block, slot = (int(part, 16) for part in found.groups())
        serial = (
            0
            if source.event_serial_no in (None, msgspec.UNSET)
            else _integer("event_serial_no", source.event_serial_no)
        )
        return _integer("change_lsn", log * 2**32 + block), _integer("event_serial_no", slot * 2**32 + serial)
    moment = time_of(source)
    return moment, None if moment is None else 0


def time_of(source: Source) -> int | None:
    """When the database made the change, in microseconds since 1970; None where the event does not say.

    Raises:
        ValueError: it cannot be read.
    """
    for name, numerator, denominator in (("ts_us", 1, 1), ("ts_ns", 1, 1_000), ("ts_ms", 1_000, 1)):
        value = getattr(source, name)
        if value is not msgspec.UNSET and value is not None:
            moment = _integer(name, value, least=-_END) * numerator // denominator
            return _integer(name, moment, least=-_END)
    return None


def _integer(name: str, value: Any, least: int = 0) -> int:
    """An integer or its text.

    Raises:
        ValueError: it is none of 63 bits.
    """
    number = int(value) if isinstance(value, str) and _TEXT.fullmatch(value) else value
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number < _END:
        raise ValueError(f"source.{name}: expected an integer of 63 bits, got {str(value)[:80]!r}")
    return number


def _committed(sequence: str) -> int | None:
    """The first of the two LSNs, None where it is null."""
    try:
        first = _SEQUENCE.decode(sequence)[0]
    except (msgspec.MsgspecError, IndexError):
        raise ValueError(f"source.sequence: expected two LSNs, got {sequence[:80]!r}") from None
    return None if first is None else _integer("sequence", first)
