"""fraud-lakehouse features …: the catalogue as a table, and features of labels as of their own times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

features_commands = typer.Typer(
    help="The catalogue of features, and features of labels as of their own times.",
    no_args_is_help=True,
    epilog="Example: fraud-lakehouse features list",
)


@features_commands.command("list", epilog="Example: fraud-lakehouse features list --stream card_payments")
def list_features(
    stream: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--stream", "--source", help="of this stream of streams.yml; default: all"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs: a list of objects")] = False,
) -> None:
    """Every feature: its table, name, entity, unit and definition, and the columns a label needs for it."""
    from fraud_lakehouse.features.choice import stream_named
    from fraud_lakehouse.settings import load_settings
    from fraud_lakehouse.transform.project import current_catalogue

    catalogue = current_catalogue(load_settings())
    assert catalogue is not None, "the shipped project has streams"
    named = stream_named(catalogue, stream).name if stream is not None else None
    rows = [
        {
            "stream": feature.stream,
            "table": feature.table,
            "name": feature.name,
            "entity": feature.entity,
            "filter": feature.filter or "",
            "unit": feature.unit,
            "needs": ", ".join(catalogue.needed(feature)["needs"]),
            "owner": feature.owner,
            "definition": feature.definition,
        }
        for feature in catalogue.features
        if named in (None, feature.stream)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    shown = ("table", "name", "entity", "unit", "needs", "definition")
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in shown[:-1]}
    for row in ({name: name for name in shown}, *rows):
        typer.echo("  ".join(row[name].ljust(widths.get(name, 0)) for name in shown))


@features_commands.command(
    "as-of", epilog="Example: fraud-lakehouse features as-of labels.csv --out training.parquet --stream card_payments"
)
def as_of(
    labels: Annotated[Path, typer.Argument(help="a .csv or .parquet file with event_time (UTC) and keys")],
    out: Annotated[Path, typer.Option(help="the .csv or .parquet file that is written")],
    stream: Annotated[
        str, typer.Option("--stream", "--source", help="a stream of streams.yml; cards and bank are the shipped ones")
    ] = "card_payments",
    features: Annotated[str | None, typer.Option(help="names, comma separated; default: all the labels allow")] = None,
    known_by: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="count only what was known by this moment; a column known_by goes before it"),
    ] = None,
    stored: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--stored/--computed", help="stored vectors of the payments named, or computed from silver"),
    ] = None,
    corrected: Annotated[
        bool,
        typer.Option("--corrected", help="take what is known by now, late rows and later changes too: looks ahead"),
    ] = False,
) -> None:
    """Add features to labels, each as of its own time: a training set that never looks ahead.

    Labels that name payments (trans_num, transaction_id) get the stored vectors, in the version the payment was decided
    on; others are computed from silver.
    """
    from fraud_lakehouse.detection import as_of as features_as_of
    from fraud_lakehouse.features.choice import stream_named, text_columns
    from fraud_lakehouse.features.labels import check_ending, moment, read_labels, write_frame
    from fraud_lakehouse.settings import load_settings
    from fraud_lakehouse.transform.project import current_catalogue

    check_ending(out)
    settings = load_settings()
    catalogue = current_catalogue(settings)
    assert catalogue is not None, "the shipped project has streams"
    frame = read_labels(labels, text_columns(stream_named(catalogue, stream)))
    reported = features_as_of(
        frame,
        stream,
        features=[name.strip() for name in features.split(",") if name.strip()] if features is not None else None,
        known_by=moment(known_by) if known_by is not None else None,
        stored=stored,
        corrected=corrected,
        settings=settings,
    )
    write_frame(reported, out)
    typer.echo(f"{reported.height:,} labels with {reported.width - frame.width:,} features written to {out}")
