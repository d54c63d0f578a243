"""Which servers to inspect, and the proposal for them. A server that cannot be read does not stop the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fraud_lakehouse.discovery.facts import Cluster, Database
from fraud_lakehouse.discovery.kafka import read_cluster
from fraud_lakehouse.discovery.naming import source_name
from fraud_lakehouse.discovery.postgres import read_database
from fraud_lakehouse.discovery.proposal import Proposal, propose
from fraud_lakehouse.errors import LakehouseError, SettingsError
from fraud_lakehouse.pipeline import KafkaSource, Pipeline, PipelineError, PostgresSource, load_pipeline

_DSN, _SERVERS, _CONFIG_FILE = "FRAUD_POSTGRES_DSN", "FRAUD_KAFKA_BOOTSTRAP_SERVERS", "FRAUD_KAFKA_CONFIG_FILE"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Servers:
    """The environment variables of the connections to inspect; for clusters, also of the properties file."""

    databases: tuple[str, ...]
    clusters: dict[str, str]


@dataclass
class Inspection:
    """The result: the proposal, and the errors of servers that could not be read."""

    proposal: Proposal
    errors: list[LakehouseError] = field(default_factory=list)

    @property
    def is_useful(self) -> bool:
        """Whether there is a proposal to show; False if no server could be read."""
        return bool(self.proposal.sources or self.proposal.streams or not self.errors)


def servers_of(
    postgres: Sequence[str], kafka: Sequence[str], pipeline: Pipeline | None, environment: Mapping[str, str]
) -> Servers:
    """The named connections; if none is named, those of the pipeline and FRAUD_* that are set.

    Raises:
        SettingsError: a named variable is not set, or there is no connection.
    """
    sources = pipeline.sources.values() if pipeline else ()
    files = {one.servers_env: one.config_file_env for one in sources if isinstance(one, KafkaSource)}
    if postgres or kafka:
        for variable in (*postgres, *kafka):
            if not _VARIABLE.fullmatch(variable):
                raise SettingsError(
                    "--postgres and --kafka take names of environment variables; one is not a name (not shown here)",
                    "export the connection, such as SHOP_DSN=..., and name the variable: --postgres SHOP_DSN",
                )
            if not environment.get(variable):
                raise SettingsError(f"the environment variable {variable} is not set", f"export {variable}=...")
        databases, clusters = [*postgres], [*kafka]
    else:
        declared = [one.dsn_env for one in sources if isinstance(one, PostgresSource)]
        databases = [one for one in (_DSN, *declared) if environment.get(one)]
        clusters = [one for one in (_SERVERS, *files) if environment.get(one)]
    if not databases and not clusters:
        raise SettingsError(
            "no connection is set: there is nothing to inspect",
            f"export {_DSN} or {_SERVERS}, or name your variables: --postgres SHOP_DSN --kafka WIRES_SERVERS",
        )
    with_files = {one: files.get(one) or _file_variable(one) for one in dict.fromkeys(clusters)}
    return Servers(
        tuple(dict.fromkeys(databases)),
        {one: file if environment.get(file) else "" for one, file in with_files.items()},
    )


def _file_variable(servers: str) -> str:
    """The properties file's variable for a servers variable: WIRES_CONFIG_FILE for WIRES_SERVERS."""
    if servers == _SERVERS:
        return _CONFIG_FILE
    return re.sub(r"_?(BOOTSTRAP_)?(SERVERS?|BROKERS?)$", "", servers) + "_CONFIG_FILE"


def inspect_servers(
    servers: Servers,
    present: Pipeline | None,
    environment: Mapping[str, str],
    sample: int,
    shipped: Path,
) -> Inspection:
    """Read the servers and propose entries.

    Args:
        present: what the folder declares already.
        sample: maximum number of rows or records to sample per table or topic.
        shipped: the shipped pipeline folder.
    """
    databases: list[Database] = []
    clusters: list[Cluster] = []
    errors: list[LakehouseError] = []
    for variable, config_variable in servers.clusters.items():
        config_file = environment.get(config_variable, "") if config_variable else ""
        try:
            clusters.append(
                read_cluster(variable, environment[variable], config_variable, config_file, sample, errors.append)
            )
        except LakehouseError as error:
            errors.append(error)
    for variable in servers.databases:
        try:
            databases.append(
                read_database(variable, environment[variable], _publication(variable, present, environment), sample)
            )
        except LakehouseError as error:
            errors.append(error)
    sources = tuple(present.sources.values()) if present else ()
    streams = tuple(present.streams.values()) if present else ()
    proposal = propose(databases, clusters, sources, streams, shipped_names(shipped))
    proposal.notes = [f"{one.variable}: {problem}" for one in databases for problem in one.problems] + proposal.notes
    return Inspection(proposal, errors)


def _publication(variable: str, present: Pipeline | None, environment: Mapping[str, str]) -> str:
    """The publication of a database's source, or the one that a new source will have."""
    for source in present.sources.values() if present else ():
        if isinstance(source, PostgresSource) and source.dsn_env == variable:
            return source.publication
    if variable == _DSN:
        return environment.get("FRAUD_POSTGRES_PUBLICATION") or "fraud_lakehouse"
    return f"fraud_lakehouse_{source_name(variable)}"[:63]


def shipped_names(shipped: Path) -> frozenset[str]:
    """Names of the project's models and streams."""
    models = shipped.parent / "dbt_project" / "models"
    return frozenset(path.stem for path in models.rglob("*.sql")) | _shipped_streams(shipped)


def _shipped_streams(shipped: Path) -> frozenset[str]:
    try:
        return frozenset(load_pipeline(shipped, {}).streams)
    except PipelineError:
        return frozenset()
