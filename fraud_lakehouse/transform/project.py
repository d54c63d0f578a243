"""The prepared dbt project: the shipped one plus a replica and a history model for each further captured table.

A prepared project lies in `<cache>/dbt/<hash>` with its manifest. The hash covers every file: a changed model or a
newly captured table gives another folder, so processes never disturb each other. The project is independent of the
lake; each process writes a profile that names it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fraud_lakehouse.errors import LakeError, TransformError
from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.features.definitions import Definitions, definitions_of
from fraud_lakehouse.features.documented import documented_models
from fraud_lakehouse.features.entries import WINDOWED
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.ingest.idle_partitions import REFERENCE, Windows
from fraud_lakehouse.rules import FOLDER as RULES
from fraud_lakehouse.rules import Rules, load_rules, scopes_of
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.shipped import shipped_path
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.binding import check_models
from fraud_lakehouse.transform.captured import (
    CAPTURED_CONFIG,
    Captured,
    CapturedTables,
    shipped_tables,
    tables_of_models,
)
from fraud_lakehouse.transform.compile import compile_project
from fraud_lakehouse.transform.fitted_streams import fitted_catalogue
from fraud_lakehouse.transform.generated import generate
from fraud_lakehouse.transform.project_files import Stamp, digest_of, ignored, stamp_of
from fraud_lakehouse.transform.streams import ProjectStreams, declared_catalogue, pipeline_folder, project_streams
from fraud_lakehouse.transform.variables import settings_variables, variables_of

KEPT_SECONDS = 7 * 86_400
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedProject:
    """The folder of a prepared project."""

    folder: Path

    @property
    def manifest_path(self) -> Path:
        """dbt's manifest.json."""
        return self.folder / "target" / "manifest.json"

    @property
    def compiled_path(self) -> Path:
        """The compiled project (`compiled.py`)."""
        return self.folder / "compiled.json"

    @property
    def is_prepared(self) -> bool:
        """Whether it is compiled: the folder appears as a whole, or not at all."""
        return self.compiled_path.is_file()


def shipped_project() -> Path:
    """The dbt project shipped with the package.

    Raises:
        TransformError: it is missing.
    """
    folder = shipped_path("dbt_project")
    if not (folder / "dbt_project.yml").is_file():
        raise TransformError(f"the dbt project is missing: there is no {folder}", "reinstall fraud-lakehouse")
    return folder


def prepare_project(settings: Settings, shipped: Path | None = None) -> PreparedProject:
    """The parsed project for this lake; prepared again only when a file of it changes.

    Args:
        shipped: the dbt project to start from; default: the one shipped with the package.

    Raises:
        TransformError: dbt rejects the project (the message is dbt's), or a file disappeared while it was read.
        LakeError: the disk is full.
    """
    return Preparation(settings, shipped).prepare()


class Preparation:
    """Prepares a lake's project repeatedly: files are read again only if their stamp changed. Not thread-safe.

    Args:
        shipped: the dbt project to start from; default: the one shipped with the package.
    """

    def __init__(self, settings: Settings, shipped: Path | None = None) -> None:
        self._settings = settings
        self._shipped = shipped
        self._tables = CapturedTables(Lake.at(settings.lake))
        self._seen: tuple[Stamp, Path, Stamp, dict[str, Captured]] | None = None
        self._plan = _Plan(Path(), {}, PreparedProject(Path()))

    @property
    def pipeline(self) -> Path:
        """The pipeline folder.

        Raises:
            TransformError: it does not exist.
        """
        return pipeline_folder(self._settings, self._shipped or shipped_project())

    def planned(self) -> PreparedProject:
        """The project that fits the current files, parsed or not.

        Raises:
            TransformError: a file disappeared while it was read, or the pipeline folder or the catalogue is invalid.
        """
        return self._planned().project

    def prepare(self) -> PreparedProject:
        """The current project, parsed if no process has parsed it yet.

        Raises:
            TransformError: as `planned`, or dbt rejects the project; the message is dbt's.
            LakeError: the disk is full.
        """
        with _going_away():
            plan = self._planned()
            if not plan.project.is_prepared:
                with _kept_in(plan.project.folder.parent):
                    _make(plan)
            return plan.project

    def note_used(self, prepared: PreparedProject) -> None:
        """Record that this lake is built by the project: as a fallback if the next one is broken, and as still in use.

        Raises:
            LakeError: the work folder cannot be written.
        """
        note = self._settings.work_dir / "project"
        unseen = note.with_suffix(f".{os.getpid()}")
        try:
            os.utime(prepared.folder)  # projects unused for a week are removed
            note.parent.mkdir(parents=True, exist_ok=True)
            unseen.write_text(prepared.folder.name)
            unseen.replace(note)
        except OSError as error:
            fix = "point FRAUD_WORK at a folder this user may write"
            raise LakeError(f"the note {note} cannot be written: {error.strerror or error}", fix) from None

    def last_used(self) -> PreparedProject | None:
        """The project that last built this lake; None if there is none, or it was removed."""
        try:
            name = (self._settings.work_dir / "project").read_text().strip()
        except OSError:
            return None
        prepared = PreparedProject(self._settings.cache_dir / "dbt" / name)
        # a project compiled by another version of the code is not used
        return prepared if name.endswith(f"-{_code()}") and prepared.is_prepared else None

    def _planned(self) -> _Plan:
        with _going_away():
            shipped = self._shipped or shipped_project()
            folder = pipeline_folder(self._settings, shipped)
            seen = stamp_of(shipped), folder, stamp_of(folder, but=RULES), self._tables.now()
            if self._seen != seen:
                self._plan = _plan(self._settings, shipped, *seen)
                self._seen = seen
            return self._plan


@contextmanager
def _going_away() -> Iterator[None]:
    """Report a file that disappeared while it was read."""
    try:
        yield
    except FileNotFoundError as error:
        raise TransformError(
            f"{error.filename} disappeared while the dbt project was read",
            "no action if it was being edited: it is read again",
        ) from error


@contextmanager
def _kept_in(home: Path) -> Iterator[None]:
    """Report errors of the file system with the folder's name."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        first = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # several, each with two paths
        raise LakeError(
            f"the dbt project cannot be prepared in {home}: {first}",
            "free space there, or set FRAUD_CACHE to a folder this user may write; preparation is retried",
        ) from error


@dataclass(frozen=True)
class _Plan:
    """A project's files: those of `shipped`, replaced or extended by `generated` (text by path), and its folder."""

    shipped: Path
    generated: dict[str, str]
    project: PreparedProject


def _plan(
    settings: Settings, shipped: Path, stamp: Stamp, pipeline: Path, declared: Stamp, captured: dict[str, Captured]
) -> _Plan:
    made = generate(shipped, captured, *_declared(shipped, stamp, pipeline, declared))
    for problem in made.problems if captured else ():  # not reported before any table is captured
        log.warning("%s", problem)
    files = made.files | {f"pipeline/{name}": (pipeline / name).read_text("utf-8") for name, *_ in declared.marks}
    variables = variables_of(settings, captured, made.tables, made.catalogue)
    files["dbt_project.yml"] = _with_variables(shipped, variables)
    folder = settings.cache_dir / "dbt" / f"{digest_of(shipped, stamp, files)}-{_code()}"
    return _Plan(shipped, files, PreparedProject(folder))


@lru_cache(maxsize=1)
def _code() -> str:
    """A digest of the code that compiles: another version may compile the same project differently."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _make(plan: _Plan) -> None:
    """Assemble and compile a project; its folder appears as a whole."""
    home = plan.project.folder.parent
    home.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=home))
    try:
        shutil.copytree(plan.shipped, building, ignore=ignored, dirs_exist_ok=True)
        for name, text in plan.generated.items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            (building / name).write_text(text, encoding="utf-8")
        compile_project(building)
        try:
            os.rename(building, plan.project.folder)
        except OSError:
            if not plan.project.is_prepared:  # otherwise another process has made the same project
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _forget_old(home, plan.project.folder)


def _forget_old(home: Path, current: Path) -> None:
    """Remove prepared projects unused for a week; a process that still runs one has its manifest in memory."""
    for folder in home.iterdir():
        with suppress(FileNotFoundError):  # another process has renamed or removed its unfinished folder
            if folder != current and time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def current_catalogue(settings: Settings, shipped: Path | None = None) -> Catalogue | None:
    """The catalogue of features; None for a project without streams.

    Args:
        shipped: the dbt project; default: the one shipped with the package.

    Raises:
        TransformError: the pipeline folder or the catalogue is invalid; says where.
    """
    return _current(settings, shipped)[1]


def _current(settings: Settings, shipped: Path | None) -> tuple[ProjectStreams, Catalogue | None]:
    shipped = shipped or shipped_project()
    folder = pipeline_folder(settings, shipped)
    return _declared(shipped, stamp_of(shipped), folder, stamp_of(folder, but=RULES))


def check_pipeline(settings: Settings, folder: Path) -> None:
    """Check that models can be generated from a pipeline folder, before any table is captured.

    Raises:
        TransformError: they cannot; names the stream, feature or column.
    """
    shipped = shipped_project()
    _plan(settings, shipped, stamp_of(shipped), folder, stamp_of(folder, but=RULES), {})


def current_rules(settings: Settings, shipped: Path | None = None) -> Rules:
    """The rules of the pipeline folder, for the streams of the project.

    Args:
        shipped: the dbt project; default: the one shipped with the package.

    Raises:
        TransformError: as `current_catalogue`.
    """
    shipped = shipped or shipped_project()
    catalogue = current_catalogue(settings, shipped)
    return load_rules(pipeline_folder(settings, shipped), scopes_of(catalogue, settings.max_amount))


def current_streams(settings: Settings, shipped: Path | None = None) -> dict[str, PaymentStream]:
    """The streams that models currently compute.

    Args:
        shipped: the dbt project; default: the one shipped with the package.

    Raises:
        TransformError: as `current_catalogue`.
    """
    catalogue = current_catalogue(settings, shipped)
    return catalogue.streams if catalogue is not None else {}


def tables_of_own_streams(settings: Settings, shipped: Path | None = None) -> set[str]:
    """Bronze tables of declared streams with model files in the project, and the tables that list their entities.

    Args:
        shipped: the dbt project; default: the one shipped with the package.

    Raises:
        TransformError: as `current_catalogue`.
    """
    found, _ = _current(settings, shipped)
    own = [stream for name, stream in found.streams.items() if name in found.own and stream.is_declared]
    known = {entity.exists_in["table"] for stream in own for entity in stream.entities.values() if entity.exists_in}
    return {stream.table for stream in own} | known


def current_definitions(settings: Settings, shipped: Path | None = None) -> Definitions:
    """The definitions of the features that models currently compute.

    Args:
        shipped: the dbt project; default: the one shipped with the package.

    Raises:
        TransformError: the catalogue is invalid; says where.
    """
    catalogue = current_catalogue(settings, shipped)
    return definitions_of(catalogue, settings_variables(settings)) if catalogue is not None else {}


def current_windows(settings: Settings, shipped: Path | None = None) -> list[Windows]:
    """The windows that models close, from the catalogue; the reference's if it is invalid (other code reports that).

    Args:
        shipped: the dbt project; default: the one shipped with the package.
    """
    try:
        catalogue = current_catalogue(settings, shipped)
    except (TransformError, FileNotFoundError):
        catalogue = None
    features = catalogue.features if catalogue is not None else []
    found = {
        Windows(feature.seconds, feature.step_seconds or feature.seconds)
        for feature in features
        if feature.past in WINDOWED and feature.seconds is not None
    }
    return sorted(found, key=lambda windows: (windows.size, windows.step)) or list(REFERENCE)


def shipped_variables(settings: Settings, shipped: Path) -> dict[str, Any]:
    """The vars of an unprepared project; `feature_columns` are the columns that its yml files lack.

    Raises:
        TransformError: the catalogue is invalid, or a captured table has the name of another table of the project.
    """
    captured = CapturedTables(Lake.at(settings.lake)).now()
    tables = tables_of_models(shipped_tables(shipped), captured)
    for name, table in tables.items():
        if name != table:
            raise TransformError(
                f"bronze/{name} is not the table that the model {name} reads: expected the key and the columns of "
                f"models/bronze/sources.yml",
                "run the prepared project, which knows the captured tables (docs/how-to/operate.md, dbt by hand)",
            )
    folder = pipeline_folder(settings, shipped)
    streams, catalogue = _declared(shipped, stamp_of(shipped), folder, stamp_of(folder, but=RULES))
    files = {}
    if catalogue is not None:
        catalogue, _ = fitted_catalogue(catalogue.of_streams(streams.own), streams.own, tables, captured)
        check_models(shipped, catalogue, {})
        files = documented_models(shipped, catalogue)
    models = [model for text in files.values() for model in yaml.safe_load(text)["models"]]
    return variables_of(settings, captured, tables, catalogue) | {
        "feature_columns": {
            model["name"]: {column["name"]: column.get("data_type") for column in model["columns"]} for model in models
        }
    }


def _with_variables(shipped: Path, variables: dict[str, Any]) -> str:
    """dbt_project.yml with the vars that models read."""
    project = yaml.safe_load((shipped / "dbt_project.yml").read_text())
    project["vars"] |= variables | {"is_prepared": True}
    models = project.setdefault("models", {}).setdefault(project["name"], {})
    models.setdefault("silver", {})["captured"] = CAPTURED_CONFIG
    return json.dumps(project)  # JSON is also YAML


@lru_cache(maxsize=4)
def _declared(shipped: Path, stamp: Stamp, folder: Path, declared: Stamp) -> tuple[ProjectStreams, Catalogue | None]:
    """A project's streams and the catalogue of their features; read again only when a stamp differs."""
    streams = project_streams(shipped, folder)
    return streams, declared_catalogue(folder, streams) if streams.streams else None
