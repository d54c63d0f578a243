"""fraud-lakehouse quarantine …: card records that could not be read, looked at and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from fraud_lakehouse.settings import load_settings

quarantine_commands = typer.Typer(
    help="Card records that could not be read: look at them, read them again.", no_args_is_help=True
)

_Reason = Annotated[Optional[str], typer.Option(help="a part of the reason's text")]  # noqa: UP045
_Partition = Annotated[Optional[int], typer.Option(min=0, help="of this partition")]  # noqa: UP045
_Offset = Annotated[Optional[int], typer.Option(min=0, help="at this offset")]  # noqa: UP045


@quarantine_commands.command("list")
def list_records(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    limit: Annotated[int, typer.Option(min=1, help="most records shown, newest first")] = 20,
    reason: _Reason = None,
    partition: _Partition = None,
    offset: _Offset = None,
) -> None:
    """Where each waiting record lies, since when, why it could not be read, and its first bytes."""
    from fraud_lakehouse.ingest.quarantine import Quarantine, Selection
    from fraud_lakehouse.storage.lake import Lake

    quarantine = Quarantine(Lake.at(load_settings().lake))
    records = quarantine.records(Selection(reason, partition, offset), limit)
    if as_json:
        typer.echo(json.dumps(records, default=lambda value: value.isoformat(), indent=2))
        return
    for one in records:
        place = f"{one['topic']}/{one['partition']}/{one['offset']}"
        typer.echo(f"{place}  {one['quarantined_at']:%F %T} UTC  {one['error']}")
        typer.echo(f"    {one['bytes']:,} bytes: {one['start']!r}")
    typer.echo(f"{len(records):,} shown" if records else "nothing is in quarantine")


@quarantine_commands.command()
def export(
    file: Annotated[Path, typer.Argument(help="JSON lines are written here")],
    reason: _Reason = None,
    partition: _Partition = None,
    offset: _Offset = None,
) -> None:
    """Write waiting records as JSON lines; correct `value` and give the file to `quarantine replay --from`."""
    from fraud_lakehouse.ingest.quarantine import Quarantine, Selection
    from fraud_lakehouse.storage.lake import Lake

    count = Quarantine(Lake.at(load_settings().lake)).export(Selection(reason, partition, offset), file)
    typer.echo(f"{count:,} records written to {file}")


@quarantine_commands.command()
def replay(
    corrected: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--from", help="a corrected file of `quarantine export`; default: the bytes as they came"),
    ] = None,
    reason: _Reason = None,
    partition: _Partition = None,
    offset: _Offset = None,
) -> None:
    """Read waiting records again by today's rules and land those that are good, each once."""
    from fraud_lakehouse.failpoints import arm_from
    from fraud_lakehouse.ingest.quarantine import Quarantine, Selection, read_corrections
    from fraud_lakehouse.storage.lake import Lake

    settings = load_settings()
    if settings.failpoint:
        arm_from(settings.failpoint)
    values = read_corrections(corrected) if corrected is not None else None
    quarantine = Quarantine(Lake.at(settings.lake))
    result = quarantine.replay(Selection(reason, partition, offset), values, settings.max_record_bytes)
    typer.echo(f"{result.rows:,} records replayed, {sum(result.refused.values()):,} still cannot be read")
    for why, count in sorted(result.refused.items(), key=lambda item: -item[1])[:20]:
        typer.echo(f"  {count:,}: {why}")
