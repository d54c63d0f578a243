"""fraud-lakehouse peek: records of a topic or rows of a table, as they are now or as they come."""

from __future__ import annotations

import json
import signal
import threading
from typing import Annotated, Any, Optional

import typer


def peek(
    name: Annotated[str, typer.Argument(metavar="SOURCE|TABLE", help="a source, or a table such as gold/alerts")],
    topic: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="of a source with several: the topic or bronze table"),
    ] = None,
    rows: Annotated[int, typer.Option("-n", min=1, max=10_000, help="how many of what is there")] = 10,
    where: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="SQL", help="only records for which this is true (of a topic: among its newest 10,000)"),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="go on with what comes, until Ctrl-C")] = False,
) -> None:
    """Print the newest records of a source or rows of a table: position, time, and the decoded record as JSON.

    Moves nothing: no offsets of a consumer group, no slot. Of a PostgreSQL source the bronze table is read.
    """
    from fraud_lakehouse.checks import peek as records
    from fraud_lakehouse.settings import load_settings

    stop = threading.Event()
    if follow:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    frames = records.peek(
        load_settings(), name, topic=topic, rows=rows, where=where, stop=stop.is_set if follow else None
    )
    for frame in frames:
        for row in frame.iter_rows(named=True):
            place, moment = row.pop(records.POSITION), row.pop(records.TIME)
            at = f"{moment:%F %T.%f}" if moment is not None else "-"
            typer.echo(f"{place}  {at}  {_record(row)}")


def _record(row: dict[str, Any]) -> str:
    shown = {name: value for name, value in row.items() if not (name.startswith("_") and value is None)}
    return json.dumps(shown, default=_text, ensure_ascii=False)


def _text(value: Any) -> str:
    """A value that JSON has no form for: bytes as text as far as they are, others as Python prints them."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
