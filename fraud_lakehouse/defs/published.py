"""The topics to which features are published, as assets: materializing one publishes pending rows.

There are none unless FRAUD_PUBLISH_FEATURES is on. During a live run, the background worker publishes.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.defs import OWNERS
from fraud_lakehouse.defs.resources import Lakehouse, stated_failures
from fraud_lakehouse.defs.table_key import table_key

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings
    from fraud_lakehouse.sinks.kafka.publisher import Published

LAYER = "published"


def published_assets(settings: "Settings") -> list[dg.AssetsDefinition]:
    """One step for both topics."""
    if not settings.publish_features:
        return []
    from fraud_lakehouse.sinks.kafka.feature_topic import feature_topics

    keys = {topic.name: table_key(LAYER, topic.name) for topic in feature_topics(settings.publish_topic_prefix)}
    specs = [
        dg.AssetSpec(
            key=keys[topic.name],
            deps=[table_key("gold", topic.table)],
            description=f"Kafka topic {topic.name}. One message per row of gold/{topic.table}, exactly once.",
            group_name=LAYER,
            owners=OWNERS,
            kinds={"kafka"},
        )
        for topic in feature_topics(settings.publish_topic_prefix)
    ]

    @dg.multi_asset(name="publish_features", specs=specs, can_subset=False)
    def publish(lakehouse: dg.ResourceParam[Lakehouse]) -> Iterator[dg.MaterializeResult[None]]:
        with stated_failures():
            done = {one.topic: one for one in lakehouse.parts.publish(lakehouse.settings, lakehouse.lake)}
        for name, key in keys.items():
            yield dg.MaterializeResult(asset_key=key, metadata=published_metadata(done.get(name)))

    return [publish]


def published_metadata(done: "Published | None") -> dict[str, Any]:
    """Rows published now and in total, and the position in the table; zero rows if the table does not exist."""
    if done is None:
        return {"rows": 0}
    position = done.position
    return {"rows": done.rows, "published": position.published, "commit": position.commit, "epoch": position.epoch}
