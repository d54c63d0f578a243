"""MkDocs hook: writes the reference pages from the code when the site is built, and inlines the pictures.

What belongs here: one function a page, each a text made of what the package says about itself. What does not: anything
a person has to write; that is a file of `docs/`.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import pkgutil
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import SecretStr

import fraud_lakehouse
from fraud_lakehouse.cli import app
from fraud_lakehouse.errors import EXIT_CODES, LakehouseError
from fraud_lakehouse.live.metrics import Metrics
from fraud_lakehouse.pipeline import shipped_folder
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.project import current_catalogue, current_rules

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "dbt_project" / "models"
NO_DBT_PAGE = "<!doctype html><title>dbt</title><p><code>make docs</code> writes the dbt documentation here.\n"
"""What links lead to until `make docs` has replaced it: building dbt's page takes longer than the site."""
NOT_IMPORTED = "fraud_lakehouse.definitions"  # builds the Dagster definitions when imported
_PICTURE = re.compile(r"^!\[(?P<text>[^\]]*)\]\((?:\.\./)*images/(?P<name>[\w-]+\.svg)\)$", flags=re.MULTILINE)
_DOC = re.compile(r"\{\{\s*doc\('(\w+)'\)\s*\}\}")
_DOC_BLOCK = re.compile(r"\{% docs (\w+) %\}(.*?)\{% enddocs %\}", flags=re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and what stands for dbt's."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    files.append(File.generated(config, "dbt/index.html", content=NO_DBT_PAGE))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put pictures into the page itself, so that they take its colours."""

    def inlined(found: re.Match[str]) -> str:
        picture = (ROOT / "docs" / "images" / found["name"]).read_text(encoding="utf-8").strip()
        return f'<figure class="picture">{picture}<figcaption>{found["text"]}</figcaption></figure>'

    return _PICTURE.sub(inlined, markdown)


def settings_page() -> str:
    """Every setting, in the order of `settings.py`."""
    rows = [
        (f"`FRAUD_{name.upper()}`", field.description or "", _default(field.get_default()))
        for name, field in Settings.model_fields.items()
    ]
    return _page(
        "Settings",
        "Settings are environment variables. An empty variable counts as not set. A wrong value is named in the error, "
        "together with what was expected. `.env.example` lists the same variables, ready to copy; without Docker, "
        "`set -a; . ./.env; set +a` exports them.\n\n"
        "A source of your own names the variables of its connection in `pipeline/sources.yml`. "
        "Object stores add the [variables of AWS](../how-to/deploy.md#a-lake-on-an-object-store).",
        _table(("variable", "meaning", "default"), rows),
    )


def commands_page() -> str:
    """Every command with its arguments and options."""
    root = typer.main.get_command(app)
    parts = []
    for names, command in _commands(root, ("fraud-lakehouse",)):
        arguments = [one.name.upper() for one in command.params if one.param_type_name == "argument"]
        rows = [
            (_parameter_names(parameter), getattr(parameter, "help", None) or "", _parameter_default(parameter))
            for parameter in command.params
            if parameter.name != "help"
        ]
        about = (command.help or "").replace("\b", "").strip()
        parts += [f"## {' '.join(names[1:])}", about, f"```text\n{' '.join((*names, '[OPTIONS]', *arguments))}\n```"]
        parts += [_table(("argument or option", "meaning", "default"), rows)] if rows else []
    return _page(
        "Commands",
        "`fraud-lakehouse COMMAND --help` prints the same. Every command reads its [settings](settings.md) from the "
        "environment and ends with one of the [exit codes](errors.md#exit-codes).",
        *parts,
    )


def errors_page() -> str:
    """Exit codes, and the errors behind them."""
    codes = [(str(code), meaning) for code, meaning in EXIT_CODES.items()]
    parts = [_table(("exit code", "meaning"), codes)]
    for code, meaning in EXIT_CODES.items():
        rows = [
            (f"`{one.__name__}`", _first_line(one.__doc__))
            for one in sorted(_errors(), key=lambda one: one.__name__)
            if one.exit_code == code
        ]
        if rows:
            parts += [f"## {code}: {meaning}", _table(("error", "meaning"), rows)]
    return _page(
        "Errors",
        "An error says what is wrong, and after `->` what to do. A command that ends with one prints no traceback. "
        "[Recover](../how-to/recover.md) goes through them by symptom.\n\n## Exit codes",
        *parts,
    )


def metrics_page() -> str:
    """Every metric of the Prometheus endpoint."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Metrics(Path(folder))._registry
    collectors = dict.fromkeys(registry._collector_to_names)
    rows = []
    for collector in collectors:
        for metric in collector.describe():
            ending = "_total" if metric.type == "counter" else ""
            labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
            rows.append((f"`{metric.name}{ending}`", metric.type, labels, metric.documentation))
    return _page(
        "Metrics",
        "`FRAUD_METRICS_PORT` serves these to Prometheus, on `FRAUD_METRICS_HOST`. The process that runs the live "
        "cycle serves them; counters start again in each such process. "
        "[Operate](../how-to/operate.md#metrics) says which to watch.",
        _table(("metric", "type", "labels", "meaning"), rows),
    )


def rules_page() -> str:
    """Every shipped rule."""
    rules = current_rules(_shipped())
    parts = []
    for name, bound in sorted(rules.bound.items(), key=lambda one: (one[1][0].rule.state != "live", one[0])):
        text = yaml.safe_load((shipped_folder() / "rules" / f"{name}.yml").read_text(encoding="utf-8"))
        rule = bound[0].rule
        rows = [
            ("state, severity, weight", f"{rule.state}, {rule.severity}, {rule.weight}"),
            ("streams", ", ".join(one.scope.name for one in bound)),
            ("entity", ", ".join(dict.fromkeys(one.entity for one in bound))),
            ("fires when", f"`{' '.join(str(text['when']).split())}`"),
            ("parameters", ", ".join(f"`{key}` {value}" for key, value in rule.parameters.items()) or "none"),
            ("source", str(text.get("source", "")) or "none"),
        ]
        parts += [f"## {name}", text["description"], "\n".join(f"- {key}: {value}" for key, value in rows)]
    return _page(
        "Shipped rules",
        "The files of `pipeline/rules/`, live ones first. `fraud-lakehouse rules check` lists those of your folder. "
        "[Add a rule](../how-to/add-a-rule.md) shows how to write one.",
        *parts,
    )


def features_page() -> str:
    """Every feature of the shipped catalogue, by table."""
    catalogue = current_catalogue(_shipped())
    assert catalogue is not None, "the shipped pipeline has streams"
    parts = []
    for table in catalogue.tables():
        rows = [
            (f"`{one.name}`", one.entity, one.unit, one.definition + (f" Filter: `{one.filter}`" if one.filter else ""))
            for one in catalogue.of_table(table)
        ]
        parts += [f"## {table}", _table(("feature", "entity", "unit", "definition"), rows)]
    return _page(
        "Features",
        "The shipped catalogue, `pipeline/features.yml`, with its families spelt out. "
        "`fraud-lakehouse features list` prints that of your pipeline folder. *t* is the event time of the payment; "
        "[which rows count](which-rows-count.md) has the details.",
        *parts,
    )


def columns_page() -> str:
    """Columns of every shipped model, as its yml declares them."""
    blocks = dict(_DOC_BLOCK.findall((MODELS / "columns.md").read_text(encoding="utf-8")))
    parts = []
    for layer in ("silver", "gold"):
        for path in sorted((MODELS / layer).glob("*.yml")):
            for model in yaml.safe_load(path.read_text(encoding="utf-8")).get("models", []):
                rows = [
                    (f"`{column['name']}`", column.get("data_type", ""), _described(column, blocks))
                    for column in model.get("columns", [])
                ]
                parts += [f"## {layer}/{model['name']}", _described(model, blocks)]
                parts += [_table(("column", "type", "meaning"), rows)] if rows else []
    return _page(
        "Columns of the models",
        "What the shipped models declare. Columns of features come from the [catalogue](features.md), those of "
        "replicas and histories from the captured table. The [dbt documentation](../dbt/index.html) adds lineage.",
        *parts,
    )


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings_page,
    "commands": commands_page,
    "errors": errors_page,
    "metrics": metrics_page,
    "rules": rules_page,
    "features": features_page,
    "columns": columns_page,
}


def _shipped() -> Settings:
    """The defaults with the shipped pipeline, whatever the environment of the build says."""
    with _clean_environment():
        return Settings(pipeline=shipped_folder())


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("FRAUD_")}
    try:
        yield
    finally:
        os.environ.update(kept)


def _commands(command: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, one in sorted(command.commands.items()):
            yield from _commands(one, (*names, name))
    else:
        yield names, command


def _parameter_names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _parameter_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    return "" if default is None or default is False or callable(default) else f"`{default}`"


def _errors() -> Iterator[type[LakehouseError]]:
    for module in pkgutil.walk_packages(fraud_lakehouse.__path__, "fraud_lakehouse."):
        if module.name != NOT_IMPORTED and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = [LakehouseError]
    while found:
        one = found.pop()
        found += one.__subclasses__()
        yield one


def _described(entry: dict[str, Any], blocks: dict[str, str]) -> str:
    return _DOC.sub(lambda found: blocks[found[1]].strip(), str(entry.get("description", "")).strip())


def _default(value: Any) -> str:
    if value is None or value in ((), ""):
        return ""
    if isinstance(value, SecretStr):
        return "(secret)"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    code = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if odd else part.replace("<", "&lt;") for odd, part in zip(itertools.cycle((0, 1)), code))


def _page(title: str, *parts: str) -> str:
    note = "*This page is made from the code when the site is built.*"
    return "\n\n".join((f"# {title}", parts[0], note, *parts[1:])) + "\n"
