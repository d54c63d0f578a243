"""Runs dbt for a user: renders a query of macros as SQL, writes the documentation. Importing dbt takes 4 s."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.transform.compile import QUIET
from fraud_lakehouse.transform.profile import write_profile
from fraud_lakehouse.transform.project import PreparedProject

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

    from fraud_lakehouse.settings import Settings


def render(project: PreparedProject, settings: Settings, text: str) -> str:
    """Render a template of macros as SQL.

    Raises:
        TransformError: dbt cannot render it; the message is dbt's.
    """
    with scratch(settings) as profiles:
        result = invoke(project, profiles, ["compile", "--inline", text, "--no-populate-cache", "--no-write-json"])
    if not result.success:
        raise TransformError(f"dbt cannot render the query: {_reason(result)}", "correct the macro it names")
    return str(result.result.results[0].node.compiled_code)


def document(project: PreparedProject, settings: Settings, folder: Path) -> Path:
    """Write dbt's documentation of the project over the lake as one page to a folder; returns its path.

    Raises:
        TransformError: dbt failed.
    """
    with scratch(settings) as own:
        (own / "target").mkdir()
        shutil.copyfile(project.manifest_path, own / "target" / "manifest.json")
        result = invoke(project, own, ["docs", "generate", "--static", "--no-compile"])
        if not result.success:
            raise TransformError(f"dbt docs failed: {_reason(result)}", "see the message")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(own / "target" / "static_index.html", folder / "index.html"))


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A temporary folder with a profile over the lake, for one command."""
    with tempfile.TemporaryDirectory(prefix="fraud-lakehouse-dbt-") as folder:
        yield write_profile(settings, Path(folder))


def invoke(project: PreparedProject, own: Path, command: list[str]) -> Any:
    """dbt's result of a command on a prepared project; `own` is a folder of `scratch`."""
    from dbt.cli.main import dbtRunner

    folders = {"--project-dir": project.folder, "--profiles-dir": own, "--target-path": own / "target"}
    arguments = [str(part) for option in folders.items() for part in option]
    return dbtRunner(manifest=_manifest(project)).invoke([*QUIET, *command, *arguments])


def _manifest(project: PreparedProject) -> Manifest:
    """The parsed project, loaded as dbt does for a partial parse."""
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack((project.folder / "target" / "partial_parse.msgpack").read_bytes())
    manifest.build_flat_graph()  # type: ignore[no-untyped-call]  # dbt leaves this one untyped
    return manifest


def _reason(result: Any) -> str:
    """Why a command failed: the exception's message, or that of its first node."""
    nodes = getattr(result.result, "results", None) or []
    return str(result.exception) if result.exception is not None else str(nodes[0].message if nodes else "no result")
