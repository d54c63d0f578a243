"""fraud-lakehouse quarantine …: Kafka records that could not be read, shown and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings, load_settings

if TYPE_CHECKING:
    from fraud_lakehouse.ingest.quarantine import Quarantine

quarantine_commands = typer.Typer(
    help="Kafka records that could not be read: show them, read them again.",
    no_args_is_help=True,
    epilog="Example: fraud-lakehouse quarantine list",
)

_Reason = Annotated[Optional[str], typer.Option(help="a part of the reason's text")]  # noqa: UP045
_Partition = Annotated[Optional[int], typer.Option(min=0, help="of this partition")]  # noqa: UP045
_Table = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="of the topic of this bronze table; default: the only one that is there"),
]
_Offset = Annotated[Optional[int], typer.Option(min=0, help="at this offset")]  # noqa: UP045


@quarantine_commands.command("list", epilog="Example: fraud-lakehouse quarantine list --limit 5")
def list_records(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    limit: Annotated[int, typer.Option(min=1, help="most records shown, newest first")] = 20,
    reason: _Reason = None,
    partition: _Partition = None,
    offset: _Offset = None,
    table: _Table = None,
) -> None:
    """Where each waiting record lies, since when, why it could not be read, and its first bytes."""
    from fraud_lakehouse.ingest.quarantine import Selection

    records = _quarantine(load_settings(), table).records(Selection(reason, partition, offset), limit)
    if as_json:
        typer.echo(json.dumps(records, default=lambda value: value.isoformat(), indent=2))
        return
    for one in records:
        place = f"{one['topic']}/{one['partition']}/{one['offset']}"
        typer.echo(f"{place}  {one['quarantined_at']:%F %T} UTC  {one['error']}")
        typer.echo(f"    {one['bytes']:,} bytes: {one['start']!r}")
    typer.echo(f"{len(records):,} shown" if records else "nothing is in quarantine")


@quarantine_commands.command(epilog="Example: fraud-lakehouse quarantine export unreadable.jsonl")
def export(
    file: Annotated[Path, typer.Argument(help="JSON lines are written here")],
    reason: _Reason = None,
    partition: _Partition = None,
    offset: _Offset = None,
    table: _Table = None,
) -> None:
    """Write waiting records as JSON lines; correct `value` and give the file to `quarantine replay --from`."""
    from fraud_lakehouse.ingest.quarantine import Selection

    count = _quarantine(load_settings(), table).export(Selection(reason, partition, offset), file)
    typer.echo(f"{count:,} records written to {file}")


@quarantine_commands.command(epilog="Example: fraud-lakehouse quarantine replay --from corrected.jsonl")
def replay(
    corrected: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--from", help="a corrected file of `quarantine export`; default: the bytes as they came"),
    ] = None,
    reason: _Reason = None,
    partition: _Partition = None,
    offset: _Offset = None,
    table: _Table = None,
) -> None:
    """Read waiting records again by today's rules and land those that are good, each once."""
    from fraud_lakehouse.failpoints import arm_from
    from fraud_lakehouse.ingest.quarantine import Selection, read_corrections

    settings = load_settings()
    if settings.failpoint:
        arm_from(settings.failpoint)
    values = read_corrections(corrected) if corrected is not None else None
    result = _quarantine(settings, table).replay(Selection(reason, partition, offset), values)
    typer.echo(f"{result.rows:,} records replayed, {sum(result.refused.values()):,} still cannot be read")
    for why, count in sorted(result.refused.items(), key=lambda item: -item[1])[:20]:
        typer.echo(f"  {count:,}: {why}")


def _quarantine(settings: Settings, table: str | None) -> Quarantine:
    """The quarantine of the topic that is meant: named by its bronze table, or the only one with a table.

    Raises:
        SettingsError: no topic has this table, or several have one and none is named.
    """
    from fraud_lakehouse.ingest.quarantine import Quarantine
    from fraud_lakehouse.sources.configured import declared_topics
    from fraud_lakehouse.storage.lake import Lake

    lake = Lake.at(settings.lake)
    topics = {topic.table: topic for topic in declared_topics(settings)}
    names = ", ".join(topics) or "none is declared"
    if table is not None and table not in topics:
        raise SettingsError(f"no declared topic has the bronze table {table!r}", f"give one of these: {names}")
    there = [name for name in topics if lake.exists("bronze", name)] or list(topics)
    if table is None and len(there) != 1:
        raise SettingsError("there are several topics, or none", f"name the bronze table by --table, one of: {names}")
    return Quarantine(lake, topics[table or there[0]])
