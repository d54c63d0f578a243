"""The pipeline folder as typed objects: sources and streams, checked at load.

What belongs here: reading `pipeline/*.yml`, and every mistake in them that can be seen without a server. What does not:
lakes, servers, dbt. Of the package only `errors`, `shipped` and `sql_text` are imported.
"""

from fraud_lakehouse.pipeline.labels import LabelTable, StreamColumn
from fraud_lakehouse.pipeline.load import Pipeline, default_folder, find_mistakes, load_pipeline, shipped_folder
from fraud_lakehouse.pipeline.mistakes import Mistake, PipelineError
from fraud_lakehouse.pipeline.paths import Node, path_tree
from fraud_lakehouse.pipeline.sources import (
    CHANGE_FORMATS,
    REGISTRY_FORMATS,
    Field,
    KafkaSource,
    PostgresSource,
    Source,
    Topic,
)
from fraud_lakehouse.pipeline.streams import CurrencyColumn, Entity, ExistsIn, Rates, Stream

__all__ = [
    "CHANGE_FORMATS",
    "REGISTRY_FORMATS",
    "CurrencyColumn",
    "Entity",
    "ExistsIn",
    "Field",
    "KafkaSource",
    "LabelTable",
    "Mistake",
    "Node",
    "Pipeline",
    "PipelineError",
    "PostgresSource",
    "Rates",
    "Source",
    "Stream",
    "StreamColumn",
    "Topic",
    "default_folder",
    "find_mistakes",
    "load_pipeline",
    "path_tree",
    "shipped_folder",
]
