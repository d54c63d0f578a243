"""The largest field that is captured (FRAUD_MAX_FIELD_BYTES). A table with a larger one is not captured.

PostgreSQL allows 1 GB. Measured peak memory per byte of a 300 MiB field: 26 from the log and 12 from a snapshot if
it is captured, 3 and 5 if it is rejected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.errors import FieldTooLargeError

_ROWS = b"IUD"
_TEXT = ord("t")
_SHOWN = 40  # characters of a key value


def check_messages(
    messages: Sequence[bytes], tables: Mapping[str, TableInfo], limit: int, left_out: Collection[int] = ()
) -> None:
    """Check messages of the log.

    Args:
        messages: of plugin pgoutput.
        tables: the captured ones, by bronze name.
        limit: maximum bytes of a field's text.
        left_out: oids of tables that are not read.

    Raises:
        FieldTooLargeError: a field is larger; names table, column, key and the setting.
    """
    if max(map(len, messages), default=0) <= limit:
        return
    for message in messages:
        if len(message) > limit and message[0] in _ROWS:
            oid = int.from_bytes(message[1:5])
            table = next((one for one in tables.values() if one.oid == oid), None)
            if table is not None and oid not in left_out:
                for fields in _tuples(message):
                    _check(fields, table, limit)


def check_line(line: bytes, table: TableInfo, limit: int) -> None:
    """Check a line of COPY's text format, whose first field is a constant.

    Raises:
        FieldTooLargeError: a field is larger, escapes included.
    """
    if len(line) > limit:
        _check(line.rstrip(b"\n").split(b"\t")[1:], table, limit)


def _check(fields: Sequence[bytes | memoryview], table: TableInfo, limit: int) -> None:
    for number, field in enumerate(fields):
        if len(field) > limit:
            names = [column.name for column in table.columns]
            known = names if len(names) == len(fields) else [f"column {at + 1}" for at in range(len(fields))]
            key = ", ".join(
                f"{name} = {bytes(value[:_SHOWN]).decode(errors='replace')}"
                for name, value in zip(known, fields, strict=True)
                if name in table.key
            )
            raise FieldTooLargeError(
                table.name,
                table.oid,
                f"{known[number]} of table {table.source_name} has {len(field):,} bytes"
                f" in the row {key or '(key not known)'}; FRAUD_MAX_FIELD_BYTES allows {limit:,}",
                f"raise FRAUD_MAX_FIELD_BYTES to {len(field)} or more (each byte takes up to 26 of memory), or shorten"
                f" the value; then `fraud-lakehouse resync {table.name}`",
            )


def _tuples(message: bytes) -> Iterator[list[memoryview]]:
    """The fields of each tuple of a change message; null and unchanged ones are empty."""
    view = memoryview(message)
    at = 5
    while at < len(view):
        count = int.from_bytes(view[at + 1 : at + 3])
        at += 3
        fields = []
        for _ in range(count):
            size = int.from_bytes(view[at + 1 : at + 5]) if view[at] == _TEXT else -4
            fields.append(view[at + 5 : at + 5 + max(size, 0)])
            at += 5 + size
        yield fields
