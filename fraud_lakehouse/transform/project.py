"""The dbt project as it is run: the shipped one plus a replica and a history model per further captured table.

A prepared project lies in `<cache>/dbt/<hash>` with its manifest; the hash covers every file, so a changed
model or a newly captured table gives another folder, and processes never disturb each other. Which lake it is
run over is the profile's matter, which each process writes for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from deltalake import DeltaTable

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import FILE, Catalogue, load_catalogue
from fraud_lakehouse.features.definitions import Definitions, definitions_of
from fraud_lakehouse.features.documented import documented_models
from fraud_lakehouse.lake.bronze import COLUMNS_PROPERTY, KEY_PROPERTY
from fraud_lakehouse.lake.idle_partitions import REFERENCE, Windows
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.binding import check_models
from fraud_lakehouse.transform.engine import PLANNING
from fraud_lakehouse.transform.scan import columns

_INTEGER = re.compile("smallint|integer|bigint")
_NUMBER = re.compile(r"smallint|integer|bigint|float|double|decimal\(\d+,\s*\d+\)")
_TEXT = re.compile("varchar")
_TIME = re.compile("timestamp|timestamptz|date")
KEPT_SECONDS = 7 * 86_400
CARDS = "card_transactions"
BANK = {
    "users": ("user_id", {"user_id": _INTEGER, "name": _TEXT, "email": _TEXT, "registration_date": _TIME}),
    "transactions": (
        "transaction_id",
        {"transaction_id": _INTEGER, "user_id": _INTEGER, "transaction_date": _TIME, "amount": _NUMBER},
    ),
}
"""Captured tables that shipped models are about: key and columns with the types they can be computed from."""
_NOT_COPIED = shutil.ignore_patterns("target", "logs", "dbt_packages", "profiles.yml", ".user.yml", "__pycache__")


@dataclass(frozen=True)
class PreparedProject:
    """Where a prepared project lies."""

    folder: Path

    @property
    def manifest_path(self) -> Path:
        """dbt's manifest.json."""
        return self.folder / "target" / "manifest.json"

    @property
    def parsed_path(self) -> Path:
        """The manifest as dbt reads it back fastest."""
        return self.folder / "target" / "partial_parse.msgpack"

    @property
    def is_parsed(self) -> bool:
        """Whether dbt has parsed it: the folder appears whole, or not at all."""
        return self.manifest_path.is_file()


def shipped_project() -> Path:
    """The dbt project that came with the package.

    Raises:
        TransformError: it is not there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "dbt_project", package / "dbt_project"):
        if (folder / "dbt_project.yml").is_file():
            return folder
    raise TransformError("the dbt project is not beside the package", "run from a checkout of the repository")


def prepare_project(settings: Settings, shipped: Path | None = None, *, parse: bool = True) -> PreparedProject:
    """The project for this lake, parsed; made anew only when a file of it would differ.

    Args:
        shipped: the dbt project to start from; default: the one that came with the package.
        parse: False only says which one it would be.

    Raises:
        TransformError: dbt refuses the project; the message is dbt's. Or a file went away while it was read.
    """
    shipped = shipped or shipped_project()
    try:
        return _prepare(settings, shipped, parse=parse)
    except FileNotFoundError as error:
        raise TransformError(
            f"{error.filename} went away while the dbt project was read",
            "nothing, if it was being edited: it is read again",
        ) from error


def _prepare(settings: Settings, shipped: Path, *, parse: bool) -> PreparedProject:
    lake = Lake.at(settings.lake)
    bank = {name: name if _is_like_shipped(lake, name) else f"bank_{name}" for name in BANK}
    generated = _generated_files(lake, {CARDS, *bank.values()})
    files, features, catalogue = _catalogue(shipped, _stamp(shipped))
    generated |= files
    variables: dict[str, Any] = {f"{name}_table": table for name, table in bank.items()} | features
    variables |= {f"{name}_columns": _present_columns(lake, table) for name, table in bank.items()}
    generated["dbt_project.yml"] = _with_settings(shipped, settings, variables, catalogue)
    home = settings.cache_dir / "dbt"
    prepared = PreparedProject(home / _hash(shipped, generated))
    if prepared.is_parsed or not parse:
        return prepared
    home.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=home))
    try:
        shutil.copytree(shipped, building, ignore=_NOT_COPIED, dirs_exist_ok=True)
        for name, text in generated.items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            (building / name).write_text(text)
        _parse(building, settings)
        try:
            os.rename(building, prepared.folder)
        except OSError:
            if not prepared.is_parsed:  # else another process was quicker, with the same content
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _forget_old(home, prepared.folder)
    return prepared


def _forget_old(home: Path, current: Path) -> None:
    """Remove prepared projects that nobody made in the last week; who still runs one has its manifest in memory."""
    for folder in home.iterdir():
        with suppress(FileNotFoundError):  # another process has renamed or removed what it was building there
            if folder != current and time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def dbt_arguments(prepared: PreparedProject, profiles: Path, target: Path) -> list[str]:
    """The command line options every dbt call here shares."""
    folders = {"--project-dir": prepared.folder, "--profiles-dir": profiles, "--target-path": target}
    return [str(part) for option in folders.items() for part in option]


def write_profile(settings: Settings, folder: Path) -> Path:
    """Write the profiles.yml that runs a prepared project over the settings' lake; answers its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profiles.yml").write_text(_profiles(settings))
    return folder


def _parse(folder: Path, settings: Settings) -> None:
    from dbt.cli.main import dbtRunner  # 4 s of imports, only for who needs it

    quiet = ["--log-level", "none", "--log-level-file", "none", "--no-send-anonymous-usage-stats"]
    with tempfile.TemporaryDirectory() as profiles:
        write_profile(settings, Path(profiles))
        arguments = dbt_arguments(PreparedProject(folder), Path(profiles), folder / "target")
        result = dbtRunner().invoke([*quiet, "parse", *arguments])
    if not result.success:
        raise TransformError(f"dbt refuses the project: {result.exception}", "correct the model it names")


def _profiles(settings: Settings) -> str:
    lake = Lake.at(settings.lake)
    spill = str((settings.work_dir / "spill").resolve())
    output = {
        "type": "duckdb",
        "path": ":memory:",
        "schema": "main",
        "threads": 1,
        "disable_transactions": True,
        "plugins": [{"module": "fraud_lakehouse.transform.plugin", "alias": "delta", "config": {"lake": lake.root}}],
        "settings": {"TimeZone": "UTC"},
        "config_options": {"memory_limit": settings.duckdb_memory, "temp_directory": spill, **PLANNING},
    }
    return yaml.safe_dump({"fraud_lakehouse": {"target": "lake", "outputs": {"lake": output}}})


def _is_like_shipped(lake: Lake, name: str) -> bool:
    """Whether a captured table of this name has the key and columns the shipped models compute from (or is absent)."""
    if not lake.exists("bronze", name):
        return True
    table = lake.open("bronze", name)
    key, wanted = BANK[name]
    present = present_columns(table)
    kinds = {column: kind for column, kind in columns(table) if column in present or not present}
    return _key_of(table) == [key] and all(kind.fullmatch(kinds.get(column, "")) for column, kind in wanted.items())


def _present_columns(lake: Lake, name: str) -> list[str]:
    return present_columns(lake.open("bronze", name)) if lake.exists("bronze", name) else []


def present_columns(table: DeltaTable) -> list[str]:
    """The names of the columns that the source of a bronze table has now, in its order; none if that is not known."""
    described = json.loads(table.metadata().configuration.get(COLUMNS_PROPERTY) or "[]")
    return [column["name"] for column in described]


def _key_of(table: DeltaTable) -> list[str]:
    key: list[str] = json.loads(table.metadata().configuration.get(KEY_PROPERTY) or "[]")
    return key


def current_definitions(settings: Settings, shipped: Path | None = None) -> Definitions:
    """The definitions of the features that models compute now.

    Args:
        shipped: the dbt project; default: the one that came with the package.

    Raises:
        TransformError: the catalogue is wrong; it says where.
    """
    shipped = shipped or shipped_project()
    catalogue = _catalogue(shipped, _stamp(shipped))[2]
    return definitions_of(catalogue, _vars(settings)) if catalogue is not None else {}


def current_windows(shipped: Path | None = None) -> list[Windows]:
    """The windows that models close, by the catalogue; a wrong one is left to who takes it over: then the reference's.

    Args:
        shipped: the dbt project; default: the one that came with the package.
    """
    shipped = shipped or shipped_project()
    try:
        catalogue = _catalogue(shipped, _stamp(shipped))[2]
    except (TransformError, FileNotFoundError):
        catalogue = None
    features = catalogue.features if catalogue is not None else []
    tumbling = {feature.seconds for feature in features if feature.past == "tumble" and feature.seconds is not None}
    return [*(Windows(seconds, seconds) for seconds in sorted(tumbling)), *REFERENCE]


def _with_settings(shipped: Path, settings: Settings, variables: dict[str, Any], catalogue: Catalogue | None) -> str:
    """dbt_project.yml with the settings that models read as vars."""
    project = json.loads(_as_json((shipped / "dbt_project.yml").read_text()))
    project["vars"] |= _vars(settings) | variables
    if catalogue is not None:
        project["vars"]["feature_definitions"] = definitions_of(catalogue, _vars(settings))
    return json.dumps(project)  # also YAML, and quick to write: every cycle compares it


@lru_cache(maxsize=4)
def _as_json(text: str) -> str:
    """YAML as JSON, which is quick to read: the same text is read every other second."""
    return json.dumps(yaml.safe_load(text))


def _vars(settings: Settings) -> dict[str, Any]:
    return {
        "allowed_lateness_seconds": settings.allowed_lateness,
        "late_rows": settings.late_rows,
        "idle_seconds": settings.idle_seconds,
        "label_delay_seconds": settings.label_delay,
        "window_idle_seconds": settings.window_idle_seconds,
        "window_spine": settings.window_spine,
    }


@lru_cache(maxsize=4)
def _catalogue(shipped: Path, stamp: float) -> tuple[dict[str, str], dict[str, Any], Catalogue | None]:
    """The yml files with features in them, the vars of the catalogue, itself; read again only when `stamp` differs."""
    if not (shipped / FILE).is_file():
        return {}, {}, None
    catalogue = load_catalogue(shipped / FILE)
    check_models(shipped, catalogue)
    return documented_models(shipped, catalogue), catalogue.variables(), catalogue


def _stamp(shipped: Path) -> float:
    """When a file that `_catalogue` reads was last changed, or one was added."""
    return max(path.stat().st_mtime for path in (shipped, *shipped.glob("*.yml"), *shipped.glob("models/**/*.yml")))


def _generated_files(lake: Lake, shipped: set[str]) -> dict[str, str]:
    """Models and source entries of captured tables that the shipped project does not name.

    A model's name is made fit for dbt and unlike any shipped one; its alias is the table's own name.
    """
    files: dict[str, str] = {}
    sources = []
    captured = set(lake.tables("bronze"))
    taken = {name.lower() for name in captured}
    for name in sorted(captured - shipped):
        table = lake.open("bronze", name)
        key = _key_of(table)
        if not key:
            continue
        declared = [{"name": _unrendered(column), "data_type": kind, "quote": True} for column, kind in columns(table)]
        sources.append({"name": name, "description": f"Change events of {name}.", "columns": declared})
        files |= _model(name, name, "replica", [key, present_columns(table)], key)
        if f"{name}_history".lower() not in taken:  # a table of that name is captured itself: its replica lies there
            files |= _model(f"{name}_history", name, "history", [key], [*map(_in_history, key), "_lsn", "_seq"])
    if sources:
        files["models/silver/captured/sources.yml"] = yaml.safe_dump(
            {"version": 2, "sources": [{"name": "captured", "schema": "bronze", "tables": sources}]}
        )
    return files


def _in_history(column: str) -> str:
    """What a source's column is called in its history (macro history_names)."""
    return f"source_{column}" if column.lower() in ("valid_from", "valid_to", "is_deleted") else column


def _unrendered(text: str) -> str:
    """The text as dbt reads it back from yml, braces and all: dbt renders names."""
    return "{{ " + json.dumps(text) + " }}" if "{" in text else text


def _model(alias: str, source: str, macro: str, arguments: list[list[str]], unique_key: list[str]) -> dict[str, str]:
    options = {"strategy": "merge", "unique_key": unique_key, "tags": ["replica"], "alias": alias, "source_types": True}
    name = f"captured_{re.sub(r'[^A-Za-z0-9_]', '_', alias)}_{hashlib.sha256(alias.encode()).hexdigest()[:6]}"
    listed = ", ".join(json.dumps(argument) for argument in arguments)
    text = (
        "{{ config(**" + json.dumps(options) + ") }}\n"
        "{{ " + macro + "(source('captured', " + json.dumps(source) + "), " + listed + ") }}\n"
    )
    return {f"models/silver/captured/{name}.sql": text}


def _hash(shipped: Path, generated: dict[str, str]) -> str:
    digest = hashlib.sha256()
    skipped = {"target", "logs", "dbt_packages", "__pycache__"}
    for path in sorted(shipped.rglob("*")):
        relative = path.relative_to(shipped)
        if path.is_file() and not skipped & set(relative.parts):
            digest.update(str(relative).encode() + b"\0" + path.read_bytes() + b"\0")
    for name in sorted(generated):
        digest.update(name.encode() + b"\0" + generated[name].encode() + b"\0")
    return digest.hexdigest()[:16]
