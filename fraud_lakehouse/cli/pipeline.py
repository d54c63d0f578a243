"""fraud-lakehouse pipeline …: the declared sources and streams."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

pipeline_commands = typer.Typer(
    help="The declared sources and streams.", no_args_is_help=True, epilog="Example: fraud-lakehouse pipeline check"
)


@pipeline_commands.command(epilog="Example: fraud-lakehouse pipeline check pipeline")
def check(
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="default: FRAUD_PIPELINE, else pipeline/ here, else the shipped one"),
    ] = None,
) -> None:
    """Report every mistake in the files of a pipeline folder, one a line; needs no lake and no server.

    Where sources.yml and streams.yml have none, features.yml, what models need of them, and the rules are checked too.
    """
    from fraud_lakehouse.cli.attention import counted
    from fraud_lakehouse.cli.rules import checked_rules, reported
    from fraud_lakehouse.pipeline import PipelineError, default_folder, load_pipeline
    from fraud_lakehouse.settings import load_settings
    from fraud_lakehouse.transform.project import check_pipeline

    folder, settings = folder or default_folder(os.environ), load_settings()
    try:
        pipeline = load_pipeline(folder, os.environ)
    except PipelineError as error:
        raise reported(error.mistakes) from None
    check_pipeline(settings, folder)
    rules, mistakes = checked_rules(settings, folder)
    if mistakes:
        raise reported(mistakes)
    sources, streams = counted(len(pipeline.sources), "source"), counted(len(pipeline.streams), "stream")
    typer.echo(f"{sources}, {streams}, {counted(len(rules.rules), 'rule')}: no mistakes")
