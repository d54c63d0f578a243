"""fraud-lakehouse labels …: what is known of payments, imported and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

labels_commands = typer.Typer(
    help="Labels of payments: import a file of chargebacks, count what is known.",
    no_args_is_help=True,
    epilog="Example: fraud-lakehouse labels import chargebacks.csv",
)


@labels_commands.command("import", epilog="Example: fraud-lakehouse labels import chargebacks.csv")
def import_file(
    file: Annotated[
        Path, typer.Argument(help=".csv or .parquet: stream, transaction_id, is_fraud, known_at; origin, author, note")
    ],
) -> None:
    """Add a file's labels to silver/labels; a label that is there is not added again.

    A file with a wrong row adds nothing; the message names the lines.
    """
    from fraud_lakehouse.detection.labels import import_labels
    from fraud_lakehouse.settings import load_settings
    from fraud_lakehouse.sources.configured import declared
    from fraud_lakehouse.storage.lake import Lake

    settings = load_settings()
    imported = import_labels(Lake.at(settings.lake), file, sorted(declared(settings).streams))
    typer.echo(f"{imported.added:,} labels added, {imported.rows - imported.added:,} were there already")


@labels_commands.command(epilog="Example: fraud-lakehouse labels status --json")
def status(as_json: Annotated[bool, typer.Option("--json", help="for programs: a list of objects")] = False) -> None:
    """By stream and origin: labels, payments with one, frauds by the newest label, and payments whose label changed."""
    from fraud_lakehouse.detection.labels import label_counts
    from fraud_lakehouse.settings import load_settings
    from fraud_lakehouse.storage.lake import Lake

    rows = label_counts(Lake.at(load_settings().lake)).to_dicts()
    if as_json:
        typer.echo(json.dumps(rows, default=lambda value: value.isoformat(), indent=2))
        return
    for row in rows:
        typer.echo(
            f"{row['stream']}, {row['origin']}: {row['labels']:,} labels of {row['payments']:,} payments, "
            f"{row['frauds']:,} frauds, {row['changed']:,} payments whose label changed"
        )
    if not rows:
        typer.echo("there are no labels yet")
