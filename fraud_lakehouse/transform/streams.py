"""The streams of a dbt project: those of the pipeline folder, and those with model files in the project.

`dbt_project.yml` names the models that the project has for its own streams (var `stream_models`, by stream). A project
without that var has no streams. If the pipeline folder does not declare such a stream, the shipped declaration is used,
so that its models compile; their tables stay empty.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from fraud_lakehouse.errors import LakehouseError, TransformError
from fraud_lakehouse.features.catalogue import FILE, Catalogue, load_catalogue
from fraud_lakehouse.features.streams import PaymentStream, payment_stream, payment_streams
from fraud_lakehouse.pipeline import Pipeline, Stream, default_folder, load_pipeline, shipped_folder
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.stream_checks import check_spelling

STREAM_MODELS = "stream_models"
_SHIPPED = shipped_folder()


@dataclass(frozen=True)
class ProjectStreams:
    """The streams of a project by name; `own` are those with model files in it."""

    streams: dict[str, PaymentStream]
    own: frozenset[str] = frozenset()

    @property
    def generated(self) -> list[PaymentStream]:
        """The streams whose models are generated."""
        return [stream for name, stream in self.streams.items() if name not in self.own]


def pipeline_folder(settings: Settings, project: Path) -> Path:
    """The pipeline folder of a dbt project: its own (as in a prepared project), else that of the settings.

    Raises:
        TransformError: there is none.
    """
    own = project / "pipeline"
    return own if own.is_dir() else _folder(settings)


def folder_with_rules(settings: Settings, project: Path) -> Path:
    """The pipeline folder whose rules a dbt project evaluates: its own if it has rules, else that of the settings.

    A prepared project has none: rules change without preparing another project.

    Raises:
        TransformError: there is none.
    """
    own = project / "pipeline"
    return own if (own / "rules").is_dir() else _folder(settings)


def _folder(settings: Settings) -> Path:
    try:
        return settings.pipeline or default_folder(os.environ)
    except LakehouseError as error:
        raise TransformError(error.problem, error.fix) from None


def project_streams(project: Path, folder: Path) -> ProjectStreams:
    """The streams of a project.

    Args:
        project: the dbt project.
        folder: the pipeline folder.

    Raises:
        TransformError: the folder is invalid, or models cannot compute a stream; names it.
    """
    try:
        content = yaml.safe_load((project / "dbt_project.yml").read_text()) or {}
    except yaml.YAMLError as error:
        raise TransformError(f"dbt_project.yml is not YAML: {error}", "correct it") from None
    models: dict[str, dict[str, str]] = (content.get("vars") or {}).get(STREAM_MODELS) or {}
    if not models:
        return ProjectStreams({})
    declared = _loaded(folder)
    streams = payment_streams(declared, models)
    if undeclared := models.keys() - streams.keys():
        shipped = _loaded(_SHIPPED)
        for name, named in models.items():
            if name in undeclared and name in shipped.streams:
                own = payment_stream(shipped.streams[name], shipped, named)
                streams[name] = own.model_copy(update={"is_declared": False})
    for name in models.keys() & streams.keys():
        _check_own(streams[name], models[name])
    for stream in streams.values():
        check_spelling(stream)
    _check_names(streams)
    return ProjectStreams(streams, frozenset(models))


def declared_catalogue(folder: Path, streams: ProjectStreams) -> Catalogue:
    """The catalogue of a pipeline folder; if it has none, the shipped one for the streams that there are.

    Raises:
        TransformError: it is invalid; names the entry.
    """
    own = folder / FILE
    if own.is_file():
        return load_catalogue(own, streams.streams)
    return load_catalogue(_SHIPPED / FILE, streams.streams, is_own=False)


def _loaded(folder: Path) -> Pipeline:
    try:
        return load_pipeline(folder, os.environ)
    except LakehouseError as error:
        raise TransformError(error.problem, error.fix) from None


def _check_own(stream: PaymentStream, models: dict[str, str]) -> None:
    """Check that a stream with models in the project has the kind and table that these models read."""
    kind = "events" if "late" in models else "changes"
    if (stream.kind, stream.table) != (kind, models["rows"]):
        raise TransformError(
            f"streams.yml, {stream.name}: it reads {stream.table} (kind {stream.kind}), but the dbt project's models "
            f"of this name read {models['rows']} (kind {kind})",
            "give the stream another name: its models are then generated",
        )
    if stream.rates is not None:
        raise TransformError(
            f"streams.yml, {stream.name}: it has amounts of several currencies, which the dbt project's models of this "
            "name do not convert",
            "give the stream another name, and the topic's table too: its models are then generated",
        )
    if stream.kind == "changes" and stream.is_declared:
        wanted, found = (_columns(one) for one in (_loaded(_SHIPPED).streams[stream.name], stream))
        if found != wanted:
            raise TransformError(
                f"streams.yml, {stream.name}: its columns are {found}, but the dbt project's models of this name "
                f"read {wanted}",
                "give the stream another name: its models are then generated",
            )


def _columns(stream: Stream | PaymentStream) -> str:
    keys = "; ".join(f"{name} {', '.join(entity.key)}" for name, entity in stream.entities.items())
    return f"id {stream.id}, time {stream.time}, amount {stream.amount}, entities {keys}, label {stream.label}"


def _check_names(streams: dict[str, PaymentStream]) -> None:
    """Check that no two streams have a model of the same name."""
    owners: dict[str, str] = {}
    for stream in streams.values():
        for model in stream.models:
            other = owners.setdefault(model.lower(), stream.name)
            if other != stream.name:
                raise TransformError(
                    f"streams.yml, {stream.name}: its table {model} would also be that of {other}",
                    "give one of the two streams another name, or its topic another table",
                )
