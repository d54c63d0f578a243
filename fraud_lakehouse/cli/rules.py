"""fraud-lakehouse rules …: the rule files of the pipeline folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fraud_lakehouse.cli.attention import counted

if TYPE_CHECKING:
    from fraud_lakehouse.pipeline import Mistake
    from fraud_lakehouse.rules import Rules, StreamRule
    from fraud_lakehouse.settings import Settings

rules_commands = typer.Typer(
    help="The rule files of the pipeline folder.", no_args_is_help=True, epilog="Example: fraud-lakehouse rules check"
)


@rules_commands.command(epilog="Example: fraud-lakehouse rules check --rule velocity")
def check(
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="default: FRAUD_PIPELINE, else pipeline/ here, else the shipped one"),
    ] = None,
    rule: Annotated[Optional[str], typer.Option("--rule", help="only this one")] = None,  # noqa: UP045
) -> None:
    """Every rule with its streams and the features it needs; runs the examples and reports every mistake.

    Needs no lake and no server.
    """
    from fraud_lakehouse.errors import SettingsError
    from fraud_lakehouse.pipeline import default_folder, load_pipeline
    from fraud_lakehouse.pipeline.mistakes import nearest
    from fraud_lakehouse.settings import load_settings

    folder = folder or default_folder(os.environ)
    load_pipeline(folder, os.environ)
    rules, mistakes = checked_rules(load_settings(), folder)
    known = sorted({*rules.bound, *rules.mistakes})
    if rule is not None and rule not in known:
        raise SettingsError(
            f"there is no rule {rule!r} in {rules.folder}{nearest(rule, known)}", f"use one of {', '.join(known)}"
        )
    shown = [bound for name, bound in rules.bound.items() if rule in (None, name)]
    if shown:
        _print_table([_row(bound) for bound in shown])
    if rule is not None:
        mistakes = [one for one in mistakes if Path(one.file).stem == rule]
    if mistakes:
        raise reported(mistakes)
    examples = sum(len(bound[0].rule.examples) for bound in shown)
    typer.echo(f"{counted(len(shown), 'rule')}, {counted(examples, 'example')}: no mistakes")


def checked_rules(settings: Settings, folder: Path) -> tuple[Rules, list[Mistake]]:
    """The rules of a pipeline folder, and all their mistakes. Examples of shipped rules are about shipped streams.

    Raises:
        TransformError: the folder's features are wrong; it says where.
    """
    from fraud_lakehouse.rules import run_examples
    from fraud_lakehouse.transform.project import current_rules

    rules = current_rules(settings.model_copy(update={"pipeline": folder}))
    return rules, sorted([*rules.all_mistakes(), *(run_examples(rules) if rules.is_own else [])])


def reported(mistakes: Iterable[Mistake]) -> typer.Exit:
    """Print mistakes, one a line; what ends the command then."""
    from fraud_lakehouse.pipeline import PipelineError

    for mistake in mistakes:
        typer.echo(str(mistake))
    return typer.Exit(PipelineError.exit_code)


def _row(bound: Sequence[StreamRule]) -> dict[str, str]:
    rule = bound[0].rule
    needed = [name for one in bound for name in (*one.features, *(request.name for request in one.requests))]
    return {
        "rule": rule.name,
        "state": rule.state,
        "severity": rule.severity,
        "streams": ", ".join(one.scope.name for one in bound),
        "entity": ", ".join(dict.fromkeys(one.entity for one in bound)),
        "features": ", ".join(dict.fromkeys(needed)),
    }


def _print_table(rows: list[dict[str, str]]) -> None:
    titles = {name: name for name in rows[0]}
    widths = {name: max(len(row[name]) for row in (titles, *rows)) for name in titles}
    for row in (titles, *rows):
        typer.echo("  ".join(row[name].ljust(widths[name]) for name in titles).rstrip())
