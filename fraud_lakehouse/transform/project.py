"""The dbt project as it is run: the shipped one plus a replica and a history model per further captured table.

A prepared project lies in `<cache>/dbt/<hash>` with its manifest; the hash covers every file, so a changed
model or a newly captured table gives another folder, and processes never disturb each other. Which lake it is
run over is the profile's matter, which each process writes for itself.
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
    """Where a prepared project lies."""

    folder: Path

    @property
    def manifest_path(self) -> Path:
        """dbt's manifest.json."""
        return self.folder / "target" / "manifest.json"

    @property
    def compiled_path(self) -> Path:
        """The project compiled (`compiled.py`)."""
        return self.folder / "compiled.json"

    @property
    def is_prepared(self) -> bool:
        """Whether it is compiled: the folder appears whole, or not at all."""
        return self.compiled_path.is_file()


def shipped_project() -> Path:
    """The dbt project that came with the package.

    Raises:
        TransformError: it is not there.
    """
    folder = shipped_path("dbt_project")
    if not (folder / "dbt_project.yml").is_file():
        raise TransformError(f"the dbt project is missing: there is no {folder}", "install fraud-lakehouse anew")
    return folder


def prepare_project(settings: Settings, shipped: Path | None = None) -> PreparedProject:
    """The project for this lake, parsed; made anew only when a file of it would differ.

    Args:
        shipped: the dbt project to start from; default: the one that came with the package.

    Raises:
        TransformError: dbt refuses the project; the message is dbt's. Or a file went away while it was read.
        LakeError: there is no room for it.
    """
    return Preparation(settings, shipped).prepare()


class Preparation:
    """Prepares a lake's project again and again: what did not change is looked at, not read. One thread at a time.

    Args:
        shipped: the dbt project to start from; default: the one that came with the package.
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
            TransformError: there is none.
        """
        return pipeline_folder(self._settings, self._shipped or shipped_project())

    def planned(self) -> PreparedProject:
        """Which project it would be now, parsed or not.

        Raises:
            TransformError: a file went away while it was read, or the pipeline folder or the catalogue is wrong.
        """
        return self._planned().project

    def prepare(self) -> PreparedProject:
        """The project as it is now, parsed if no process has parsed it yet.

        Raises:
            TransformError: as `planned`, or dbt refuses the project; the message is dbt's.
            LakeError: there is no room for it.
        """
        with _going_away():
            plan = self._planned()
            if not plan.project.is_prepared:
                with _kept_in(plan.project.folder.parent):
                    _make(plan)
            return plan.project

    def note_used(self, prepared: PreparedProject) -> None:
        """Note which project this lake is built by, for a process that finds a broken one; and that it is in use.

        Raises:
            LakeError: the work folder cannot be written.
        """
        note = self._settings.work_dir / "project"
        unseen = note.with_suffix(f".{os.getpid()}")
        try:
            os.utime(prepared.folder)  # those that nobody has used for a week are removed
            note.parent.mkdir(parents=True, exist_ok=True)
            unseen.write_text(prepared.folder.name)
            unseen.replace(note)
        except OSError as error:
            fix = "point FRAUD_WORK at a folder this user may write"
            raise LakeError(f"the note {note} cannot be written: {error.strerror or error}", fix) from None

    def last_used(self) -> PreparedProject | None:
        """The project that this lake was built by last; None where there is none, or where it was cleared away."""
        try:
            name = (self._settings.work_dir / "project").read_text().strip()
        except OSError:
            return None
        prepared = PreparedProject(self._settings.cache_dir / "dbt" / name)
        # one that another version of the code has compiled is not read
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
    """A file that is gone when it is read, as an error that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise TransformError(
            f"{error.filename} went away while the dbt project was read",
            "nothing, if it was being edited: it is read again",
        ) from error


@contextmanager
def _kept_in(home: Path) -> Iterator[None]:
    """What the disk refuses, as an error that names the folder."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        first = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # of many, each with its two paths
        raise LakeError(
            f"the dbt project cannot be prepared in {home}: {first}",
            "free space there, or set FRAUD_CACHE to a folder this user may write; it is tried again",
        ) from error


@dataclass(frozen=True)
class _Plan:
    """The files of a project: those of `shipped`, but for the `generated` texts (by path); where they will lie."""

    shipped: Path
    generated: dict[str, str]
    project: PreparedProject


def _plan(
    settings: Settings, shipped: Path, stamp: Stamp, pipeline: Path, declared: Stamp, captured: dict[str, Captured]
) -> _Plan:
    made = generate(shipped, captured, *_declared(shipped, stamp, pipeline, declared))
    for problem in made.problems if captured else ():  # of a lake without tables, or of none, it is no news
        log.warning("%s", problem)
    files = made.files | {f"pipeline/{name}": (pipeline / name).read_text("utf-8") for name, *_ in declared.marks}
    variables = variables_of(settings, captured, made.tables, made.catalogue)
    files["dbt_project.yml"] = _with_variables(shipped, variables)
    folder = settings.cache_dir / "dbt" / f"{digest_of(shipped, stamp, files)}-{_code()}"
    return _Plan(shipped, files, PreparedProject(folder))


@lru_cache(maxsize=1)
def _code() -> str:
    """Tells the code that compiles from any other: a newer version may make something else of the same project."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _make(plan: _Plan) -> None:
    """Put a project together and have it compiled; the folder appears whole."""
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
            if not plan.project.is_prepared:  # else another process was quicker, with the same content
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _forget_old(home, plan.project.folder)


def _forget_old(home: Path, current: Path) -> None:
    """Remove prepared projects that nobody made in the last week; who still runs one has its manifest in memory."""
    for folder in home.iterdir():
        with suppress(FileNotFoundError):  # another process has renamed or removed what it was building there
            if folder != current and time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def current_catalogue(settings: Settings, shipped: Path | None = None) -> Catalogue | None:
    """The catalogue of features; None of a project without streams.

    Args:
        shipped: the dbt project; default: the one that came with the package.

    Raises:
        TransformError: the pipeline folder or the catalogue is wrong; it says where.
    """
    return _current(settings, shipped)[1]


def _current(settings: Settings, shipped: Path | None) -> tuple[ProjectStreams, Catalogue | None]:
    shipped = shipped or shipped_project()
    folder = pipeline_folder(settings, shipped)
    return _declared(shipped, stamp_of(shipped), folder, stamp_of(folder, but=RULES))


def check_pipeline(settings: Settings, folder: Path) -> None:
    """Check that models of the shipped project can be generated of a pipeline folder, before any table is captured.

    Raises:
        TransformError: they cannot; it names the stream, feature or column.
    """
    shipped = shipped_project()
    _plan(settings, shipped, stamp_of(shipped), folder, stamp_of(folder, but=RULES), {})


def current_rules(settings: Settings, shipped: Path | None = None) -> Rules:
    """The rules of the pipeline folder, on the streams of the project.

    Args:
        shipped: the dbt project; default: the one that came with the package.

    Raises:
        TransformError: as `current_catalogue`.
    """
    shipped = shipped or shipped_project()
    catalogue = current_catalogue(settings, shipped)
    return load_rules(pipeline_folder(settings, shipped), scopes_of(catalogue, settings.max_amount))


def current_streams(settings: Settings, shipped: Path | None = None) -> dict[str, PaymentStream]:
    """The streams that models are about now.

    Args:
        shipped: the dbt project; default: the one that came with the package.

    Raises:
        TransformError: as `current_catalogue`.
    """
    catalogue = current_catalogue(settings, shipped)
    return catalogue.streams if catalogue is not None else {}


def tables_of_own_streams(settings: Settings, shipped: Path | None = None) -> set[str]:
    """Bronze tables of the declared streams whose models are files of the project, and those that know their entities.

    Args:
        shipped: the dbt project; default: the one that came with the package.

    Raises:
        TransformError: as `current_catalogue`.
    """
    found, _ = _current(settings, shipped)
    own = [stream for name, stream in found.streams.items() if name in found.own and stream.is_declared]
    known = {entity.exists_in["table"] for stream in own for entity in stream.entities.values() if entity.exists_in}
    return {stream.table for stream in own} | known


def current_definitions(settings: Settings, shipped: Path | None = None) -> Definitions:
    """The definitions of the features that models compute now.

    Args:
        shipped: the dbt project; default: the one that came with the package.

    Raises:
        TransformError: the catalogue is wrong; it says where.
    """
    catalogue = current_catalogue(settings, shipped)
    return definitions_of(catalogue, settings_variables(settings)) if catalogue is not None else {}


def current_windows(settings: Settings, shipped: Path | None = None) -> list[Windows]:
    """The windows that models close, by the catalogue; a wrong one is left to who takes it over: then the reference's.

    Args:
        shipped: the dbt project; default: the one that came with the package.
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
    """The vars of a project that is run as it is, not prepared; `feature_columns` are those its yml files lack.

    Raises:
        TransformError: the catalogue is wrong, or a captured table takes the name of another one of the project.
    """
    captured = CapturedTables(Lake.at(settings.lake)).now()
    tables = tables_of_models(shipped_tables(shipped), captured)
    for name, table in tables.items():
        if name != table:
            raise TransformError(
                f"bronze/{name} is not the table that the model {name} is about: expected the key and the columns of "
                f"models/bronze/sources.yml",
                "run the prepared project, which knows the captured tables (docs/operations.md, dbt by hand)",
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
    return json.dumps(project)  # also YAML


@lru_cache(maxsize=4)
def _declared(shipped: Path, stamp: Stamp, folder: Path, declared: Stamp) -> tuple[ProjectStreams, Catalogue | None]:
    """The streams of a project and the catalogue of their features; read again only when a stamp differs."""
    streams = project_streams(shipped, folder)
    return streams, declared_catalogue(folder, streams) if streams.streams else None
