"""The generated files of a prepared dbt project: models of captured tables and of streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.features.documented import documented_models
from fraud_lakehouse.transform.binding import check_models
from fraud_lakehouse.transform.captured import Captured, change_events, models_of, shipped_tables, tables_of_models
from fraud_lakehouse.transform.change_models import change_models
from fraud_lakehouse.transform.fitted_streams import fitted_catalogue
from fraud_lakehouse.transform.stream_checks import check_stream, check_tables
from fraud_lakehouse.transform.stream_models import files_of, stream_models
from fraud_lakehouse.transform.streams import ProjectStreams


@dataclass(frozen=True)
class Generated:
    """What is generated for captured tables and streams.

    Args:
        files: texts by path in the project.
        catalogue: the features of the streams that have models.
        tables: the captured table behind each bronze table of the project's own models.
        problems: why the other streams have no models.
    """

    files: dict[str, str]
    catalogue: Catalogue | None
    tables: dict[str, str]
    problems: list[TransformError]


def generate(
    shipped: Path, captured: Mapping[str, Captured], streams: ProjectStreams, catalogue: Catalogue | None
) -> Generated:
    """Generate the files that a lake with these captured tables needs.

    Args:
        shipped: the dbt project.
        streams: the streams of the project.
        catalogue: the features of all streams.

    Raises:
        TransformError: a feature cannot be computed; names it.
    """
    known = shipped_tables(shipped)
    tables = tables_of_models(known, captured)
    own = {name for name, table in known.items() if not table.key} | set(tables.values())
    files = models_of(captured, own)
    if catalogue is None:
        return Generated(files, None, tables, [])
    for name, stream in catalogue.streams.items():
        if name not in streams.own and stream.kind == "events":
            check_stream(stream)
    catalogue, problems = fitted_catalogue(catalogue, streams.own, tables, captured)
    further = [stream for name, stream in catalogue.streams.items() if name not in streams.own]

    def relation(table: str) -> str:
        if table not in own and captured[table].key:
            return change_events(table, captured[table])
        return f"source({'bronze' if table in own else 'streams'!r}, {table!r})"

    models = stream_models(further, relation)
    for stream in further:
        if stream.kind == "changes":
            models += change_models(stream, relation, captured)
    check_tables(shipped, models)
    check_models(shipped, catalogue, {model.name: model.columns for model in models})
    files |= documented_models(shipped, catalogue) | files_of(models, further, catalogue)
    return Generated(files, catalogue, tables, problems)
