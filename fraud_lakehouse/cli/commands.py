"""fraud-lakehouse …: thin; each command reads the settings and calls one function."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from fraud_lakehouse.allocator import give_memory_back
from fraud_lakehouse.cli.discover import discover
from fraud_lakehouse.cli.failure import print_failure
from fraud_lakehouse.cli.features import features_commands
from fraud_lakehouse.cli.labels import labels_commands
from fraud_lakehouse.cli.peek import peek
from fraud_lakehouse.cli.pipeline import pipeline_commands
from fraud_lakehouse.cli.quarantine import quarantine_commands
from fraud_lakehouse.cli.rules import rules_commands
from fraud_lakehouse.cli.transfers import validate
from fraud_lakehouse.errors import DEFECT, EXIT_CODES, LakehouseError
from fraud_lakehouse.settings import Settings, load_settings

BEHIND_SECONDS = 10.0  # between two lines of `live` that a source is behind

app = typer.Typer(
    name="fraud-lakehouse",
    help="Change data and card streams into Delta, features and rules in dbt, alerts in seconds.",
    epilog="Example: fraud-lakehouse demo\n\nExit codes: "
    + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    + ".",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(features_commands, name="features")
app.add_typer(labels_commands, name="labels")
app.add_typer(pipeline_commands, name="pipeline")
app.add_typer(quarantine_commands, name="quarantine")
app.add_typer(rules_commands, name="rules")
app.command(epilog="Example: fraud-lakehouse discover --postgres FRAUD_POSTGRES_DSN --folder pipeline")(discover)
app.command(epilog="Example: fraud-lakehouse peek transfers -n 3 --where \"evaluation = 'unidentified'\"")(peek)
app.command(epilog="Example: FRAUD_VALIDATOR_URL=http://127.0.0.1:8000 fraud-lakehouse validate")(validate)


def main() -> None:
    """Run the command line; a `LakehouseError` is printed without a traceback. Exits with one of `EXIT_CODES`."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        app()
    except LakehouseError as error:
        print_failure(error)
        sys.exit(error.exit_code)
    except Exception:  # noqa: BLE001  # the interpreter would print the same and exit with 1, which is another error's
        traceback.print_exc()
        sys.exit(DEFECT)


@app.command(epilog="Example: fraud-lakehouse demo --seconds 60 --no-ui")
def demo(
    seconds: Annotated[Optional[float], typer.Option(help="stop by itself after this long")] = None,  # noqa: UP045
    home: Annotated[Path, typer.Option(help="everything the demo keeps lies here")] = Path("demo"),
    rate: Annotated[float, typer.Option(min=0.1, help="operations a second and source")] = 50.0,
    ui: Annotated[bool, typer.Option(help="start the Dagster UI and the dbt docs")] = True,
) -> None:
    """Embedded PostgreSQL and Kafka with generators, the live cycle, the Dagster UI and dbt docs."""
    from fraud_lakehouse.demo.demo import run_demo

    raise typer.Exit(run_demo(home, seconds, rate, ui))


@app.command("catch-up", epilog="Example: FRAUD_LAKE=lake FRAUD_POSTGRES_DSN=... fraud-lakehouse catch-up")
def catch_up() -> None:
    """Run cycles until the sources are drained and every layer is built."""
    give_memory_back()
    from fraud_lakehouse.cli.progress_bar import ProgressBar
    from fraud_lakehouse.live import Cycle, CycleResult
    from fraud_lakehouse.storage.lake import Lake
    from fraud_lakehouse.transform.definitions import outdated_features
    from fraud_lakehouse.transform.project import current_definitions

    total = 0

    def report(result: CycleResult) -> None:
        nonlocal total
        total += result.rows
        for batch in result.ingested:
            bar.line(f"bronze/{batch.table}: {batch.rows:,} rows in {batch.seconds:.1f} s, at {batch.to_position}")
        if result.alerts:
            bar.line(f"gold/alerts: {result.alerts:,} new")
        phase = "reading the sources" if result.ingested else "building every layer"
        bar.update(f"{total:,} rows ingested, {phase}")

    settings = _settings()
    with ProgressBar("reading the sources") as bar, Cycle(settings) as cycle:
        cycle.catch_up(report)
    for outdated in outdated_features(Lake.at(settings.lake), current_definitions(settings)):
        typer.echo(f"note: {outdated}")
    typer.echo(f"caught up: {total:,} rows landed, every layer built")


@app.command(epilog="Example: FRAUD_METRICS_PORT=9464 fraud-lakehouse live")
def live() -> None:
    """Run cycles until SIGTERM or Ctrl-C; the cycle under way is finished first.

    A second one on the same lake stands by and goes on when the first one ends, is killed or does not answer. One that
    was replaced stands by itself.
    """
    give_memory_back()
    from fraud_lakehouse.live import CycleResult, run_live
    from fraud_lakehouse.live.metrics import Metrics
    from fraud_lakehouse.storage.lease import LeaseLostError

    settings, stop = _settings(), _stop_on_signal()
    say_at = dict[str, float]()
    told: dict[str, str] = {}

    def report(result: CycleResult) -> None:
        metrics.note(result)
        for part in sorted({*told, *result.problems}):
            if result.problems.get(part) != told.get(part):
                typer.echo(f"{part}: {result.problems.get(part, 'well again')}")
        told.clear()
        told.update(result.problems)
        if result.rows or result.alerts:
            steps = ", ".join(f"{step} {took:.2f} s" for step, took in result.seconds.items())
            typer.echo(f"{result.rows:,} rows, {result.alerts:,} alerts ({steps})")
        for source, behind in result.behind.items():
            if behind.exceeds(settings.alert_seconds) and time.monotonic() >= say_at.get(source, 0.0):
                typer.echo(f"{source} is behind: {behind}")
                say_at[source] = time.monotonic() + BEHIND_SECONDS

    while not stop.is_set():
        with Metrics.of(settings) as metrics:
            try:
                run_live(settings, stop.is_set, report)
            except LeaseLostError as lost:
                typer.echo(f"{lost.problem}; it stands by now")
            else:
                return


@app.command(epilog="Example: fraud-lakehouse rebuild gold/card_feature_vectors")
def rebuild(
    models: Annotated[list[str], typer.Argument(help="tables of silver or gold; with the layer where two have a name")],
) -> None:
    """Build models anew from all rows of their upstream, after a change of what they say.

    `status` names features with rows that another definition has computed. What reads these models follows at its next
    build; versions begin at 1 again. Tables that keep what they have said (gold/alerts) are refused.
    """
    from fraud_lakehouse.cli.progress_bar import ProgressBar
    from fraud_lakehouse.transform.rebuild import rebuild as rebuild_models
    from fraud_lakehouse.transform.runner import Transformer

    settings = _settings()
    with closing(Transformer(settings)) as transformer, ProgressBar(f"rebuilding {', '.join(models)}") as bar:
        for node in rebuild_models(transformer, settings, models):
            bar.line(f"{node.name}: {node.rows or 0:,} rows in {node.seconds:.1f} s")


@app.command(epilog="Example: fraud-lakehouse replay fraudTest.csv --rate 100")
def replay(
    file: Annotated[Path, typer.Argument(help="a Sparkov-shaped CSV")],
    rate: Annotated[Optional[float], typer.Option(min=0.001, help="records a second; default: no limit")] = None,  # noqa: UP045
    topic: Annotated[Optional[str], typer.Option(help="default: FRAUD_KAFKA_TOPIC")] = None,  # noqa: UP045
) -> None:
    """Publish a CSV of card transactions to Kafka as the 12-field JSON."""
    from fraud_lakehouse.cli.progress_bar import ProgressBar
    from fraud_lakehouse.demo.replay import replay as replay_file

    with ProgressBar(f"checking {file}") as bar:

        def report(published: int, total: int) -> None:
            bar.update(f"{published:,} of {total:,} records published", published, total)

        result = replay_file(_settings(), file, rate=rate, topic=topic, report=report)
    typer.echo(f"{result.published:,} records published to {result.topic} in {result.seconds:.1f} s")


@app.command(epilog="Example: fraud-lakehouse status --json")
def status(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Positions, lag and freshness of every source and layer, and the open alerts."""
    from rich.console import Console

    from fraud_lakehouse.checks.status import collect, to_json
    from fraud_lakehouse.cli.status_text import coloured, render

    report = collect(_settings())
    if as_json:
        typer.echo(to_json(report))
    else:
        Console().print(coloured(render(report)), soft_wrap=True)


@app.command(epilog="Example: fraud-lakehouse bench catch_up --json")
def bench(
    name: Annotated[str, typer.Argument(help="a benchmark of benchmarks/; 'list' names them")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Run a benchmark; its figure is printed beside the yardstick measured in the same run."""
    from fraud_lakehouse.cli.bench import run_benchmark

    run_benchmark(name, as_json=as_json)


@app.command(epilog="Example: fraud-lakehouse publish --from topic")
def publish(
    begin: Annotated[
        Optional[Literal["now", "topic", "start"]],  # noqa: UP045
        typer.Option("--from", help="of a topic whose position is unclear: what counts as published"),
    ] = None,
) -> None:
    """Publish the features that are pending to Kafka, each exactly once.

    `--from` decides where a topic goes on whose position cannot be told (the error says why): `now` counts the rows
    there are as published, `topic` counts what the topic holds and publishes the rest, `start` publishes everything
    again. Topics whose position is clear just go on.
    """
    from fraud_lakehouse.sinks.kafka.publisher import Publisher
    from fraud_lakehouse.storage.lake import Lake

    settings = _settings()
    with Publisher(settings, Lake.at(settings.lake), begin) as publisher:
        for done in publisher.step():
            typer.echo(f"{done.topic}: {done.rows:,} rows published, {done.position.published:,} in all")


@app.command("accept-source", epilog="Example: fraud-lakehouse accept-source bank")
def accept_source(source: Annotated[str, typer.Argument(help="its name in sources.yml, such as bank")]) -> None:
    """Resume with another source: accept its present identity and continue from what it has.

    Another PostgreSQL server is captured from a new snapshot: the change events and versions in bronze and in the
    history tables are replaced by it (earlier versions of the Delta tables stay readable until vacuumed). On the
    server the lake was filled from, `resync` mends a lost slot and keeps everything.
    """
    from fraud_lakehouse.ingest import accept
    from fraud_lakehouse.storage.lake import Lake

    settings = _settings()
    typer.echo(f"accepted {accept(settings, Lake.at(settings.lake), source)}")


@app.command(epilog="Example: fraud-lakehouse resync public.payments --source bank")
def resync(
    tables: Annotated[
        list[str] | None, typer.Argument(help="names, with the schema or without; default: every captured table")
    ] = None,
    source: Annotated[Optional[str], typer.Option(help="which database; default: the only one")] = None,  # noqa: UP045
) -> None:
    """Compare PostgreSQL tables with bronze and append what bronze lacks, without a gap; makes a lost slot anew.

    The history stays: rows that differ become new versions as of now. A running live process goes on afterwards.
    """
    from fraud_lakehouse.cli.progress_bar import ProgressBar
    from fraud_lakehouse.ingest import resync as resync_tables
    from fraud_lakehouse.storage.lake import Lake

    settings = _settings()
    with ProgressBar(f"comparing {', '.join(tables or ['every captured table'])} with bronze"):
        report = resync_tables(settings, Lake.at(settings.lake), tables or [], source)
    for name, one in sorted(report.found.items()):
        found = f"{one.new:,} new, {one.changed:,} changed, {one.gone:,} gone"
        typer.echo(f"bronze/{name}: {one.rows:,} rows in the source; of bronze {found}")


@app.command("forget-slot", epilog="Example: fraud-lakehouse forget-slot --source bank")
def forget_slot(
    source: Annotated[Optional[str], typer.Option(help="which database; default: the only one")] = None,  # noqa: UP045
) -> None:
    """Drop the replication slot on the server, so that it keeps no more log for this lake.

    Refused while a process is reading it. The lake keeps everything; the next capture begins with a resync.
    """
    from fraud_lakehouse.ingest import forget_postgres_slot
    from fraud_lakehouse.storage.lake import Lake

    settings = _settings()
    slot, existed = forget_postgres_slot(settings, Lake.at(settings.lake), source)
    output = "dropped; the next capture makes it anew and begins with a resync" if existed else "was not there"
    typer.echo(f"replication slot {slot} {output}")


@app.command(epilog="Example: fraud-lakehouse generate --rate 10")
def generate(rate: Annotated[float, typer.Option(min=0.1, help="operations a second and source")] = 50.0) -> None:
    """Write the demo's data into the configured PostgreSQL and Kafka until SIGTERM or Ctrl-C."""
    from fraud_lakehouse.demo.generate import run_generators

    stop = _stop_on_signal()
    run_generators(_settings(), rate, stop)


@app.command(epilog="Example: fraud-lakehouse docs --folder build/docs --serve 8580")
def docs(
    folder: Annotated[Path, typer.Option(help="where the site is written")] = Path("target/docs"),
    serve: Annotated[Optional[int], typer.Option(help="serve it on this port of the loopback address")] = None,  # noqa: UP045
) -> None:
    """Write the dbt documentation of models, columns and lineage as a static site."""
    from fraud_lakehouse.transform.documentation import serve_site, write_site

    write_site(_settings(), folder)
    typer.echo(f"dbt docs written to {folder}/index.html")
    if serve is not None:
        serve_site(folder, serve)


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _settings() -> Settings:
    settings = load_settings()
    if settings.failpoint:
        from fraud_lakehouse.failpoints import arm_from

        arm_from(settings.failpoint)
    return settings
