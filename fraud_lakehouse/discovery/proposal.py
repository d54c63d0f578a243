"""From facts to the entries of `sources.yml` and `streams.yml`. Makes no connections and reads no files.

Existing entries of a folder are never changed: an existing source of a connection is reused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from fraud_lakehouse.discovery.databases import propose_database
from fraud_lakehouse.discovery.facts import Cluster, Database
from fraud_lakehouse.discovery.naming import Names, bronze_of, made_of, source_name
from fraud_lakehouse.discovery.text import Entry, plain
from fraud_lakehouse.discovery.topics import propose_topics
from fraud_lakehouse.pipeline import KafkaSource, PostgresSource, Source, Stream
from fraud_lakehouse.sql_text import qualified


@dataclass
class Proposal:
    """What to write; `notes` are remarks for the user."""

    sources: list[Entry] = field(default_factory=list)
    streams: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def propose(
    databases: Sequence[Database],
    clusters: Sequence[Cluster],
    sources: Sequence[Source] = (),
    streams: Sequence[Stream] = (),
    shipped: Collection[str] = (),
) -> Proposal:
    """The entries for databases and clusters.

    Args:
        sources, streams: the folder's existing ones.
        shipped: names of the project's streams and models.
    """
    proposal = Proposal()
    present = _bronze_tables(sources, streams)
    source_names = Names(source.name for source in sources)
    stream_names = Names([*shipped, *(stream.name for stream in streams), *present])
    topic_tables, bronze = Names([*shipped, *present]), Names(present)
    for cluster in clusters:
        of_kafka = [one for one in sources if isinstance(one, KafkaSource)]
        known = {topic.topic for one in of_kafka if one.servers_env == cluster.variable for topic in one.topics}
        name = source_names.take(source_name(cluster.variable))
        source, found = propose_topics(cluster, known, name, topic_tables, bronze, stream_names)
        proposal.sources += [source] if source else []
        proposal.streams += found
    of_postgres = [one for one in sources if isinstance(one, PostgresSource)]
    is_first = not of_postgres
    for database in databases:
        reader = next((one for one in of_postgres if one.dsn_env == database.variable), None)
        name = source_names.take(source_name(database.variable, database.name)) if reader is None else reader.name
        prefix = reader.prefix if reader else "" if is_first else f"{name[:39]}_"
        is_first = False
        read = {stream.from_ for stream in streams}
        source, entries, notes = propose_database(database, reader, name, prefix, read, bronze, stream_names)
        proposal.sources += [source] if source else []
        proposal.streams += entries
        proposal.notes += map(plain, notes)
    return proposal


def _bronze_tables(sources: Sequence[Source], streams: Sequence[Stream]) -> set[str]:
    """Bronze tables that the folder's entries name, and the tables computed from them."""
    names = {name for stream in streams for name in made_of(stream.from_)}
    for source in sources:
        if isinstance(source, KafkaSource):
            names |= {topic.table for topic in source.topics}
        else:
            names |= {bronze_of(source.prefix, *qualified(table)) for table in source.tables}
    return names
