"""fraud-lakehouse discover: a proposal for the pipeline folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer


def discover(
    postgres: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="VARIABLE", help="environment variable with a PostgreSQL connection string; repeatable"),
    ] = None,
    kafka: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="VARIABLE", help="environment variable with Kafka servers (host:port); repeatable"),
    ] = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="write sources.yml and streams.yml there; entries that are there stay as they are"),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, max=10_000, help="rows or records sampled of each table or topic")
    ] = 200,
    force: Annotated[bool, typer.Option("--force", help="replace files of the folder")] = False,
) -> None:
    """Inspect databases and topics, and propose what the pipeline folder should say of them.

    Without --postgres and --kafka it inspects the connections that are set: those of the present pipeline and
    FRAUD_POSTGRES_DSN, FRAUD_KAFKA_BOOTSTRAP_SERVERS. Without --folder the proposal is printed. Nothing is captured.
    """
    from fraud_lakehouse.discovery import (
        file_texts,
        inspect_servers,
        present_entries,
        sentence,
        servers_of,
        write_folder,
    )
    from fraud_lakehouse.pipeline import default_folder, shipped_folder

    environment = os.environ
    shipped = shipped_folder()
    kept = None if folder is None or force else present_entries(folder, environment)
    declared = kept if kept or postgres or kafka else present_entries(default_folder(environment), environment)
    servers = servers_of(postgres or (), kafka or (), declared, environment)
    found = inspect_servers(servers, kept, environment, sample, shipped)
    if found.is_useful:
        texts = file_texts(found.proposal, folder if kept else None, environment)
        if folder is None:
            for name, text in texts.items():
                typer.echo(f"# ---- {name}\n{text}")
        else:
            for path in write_folder(folder, texts):
                typer.echo(f"wrote {path}")
            for what, entries in (("source", found.proposal.sources), ("stream", found.proposal.streams)):
                for entry in entries:
                    typer.echo(f"{what} {entry.name}: {'proposed' if entry.is_proposed else 'commented out'}")
            typer.echo(f"next: read their comments, export FRAUD_PIPELINE={folder}, run fraud-lakehouse catch-up")
    for note in found.proposal.notes:
        typer.echo(f"note: {note}", err=True)
    for error in found.errors:
        typer.echo(f"error: {sentence(error)}", err=True)
    if found.errors:
        raise typer.Exit(found.errors[0].exit_code)
