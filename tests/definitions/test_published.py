"""The published topics as assets: there only when asked for, with rows and position, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dagster as dg

from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.resources import Parts
from fraud_lakehouse.sinks.kafka.errors import OutputTopicMissingError
from fraud_lakehouse.sinks.kafka.position import Position
from fraud_lakehouse.sinks.kafka.publisher import Published

OVER, TUMBLE = "user_trans_amt_last_360min", "user_trans_amt_last_360min_windowed"
KEYS = [dg.AssetKey(["published", f"bank_{name}"]) for name in (OVER, TUMBLE)]


def _run(
    stand: Callable[..., Any], manifest: dict[str, Any], instance: dg.DagsterInstance, publish: Any
) -> dg.ExecuteInProcessResult:
    made = stand(publish_features=True, publish_topic_prefix="bank_")
    definitions = build_definitions(made.settings, parts=Parts(publish=publish), manifest=manifest)
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    assert [graph.get(key).parent_keys for key in KEYS] == [
        {dg.AssetKey(["gold", f"{name}_versions"])} for name in (OVER, TUMBLE)
    ]
    job = definitions.resolve_job_def("update")
    return job.execute_in_process(instance=instance, raise_on_error=False, asset_selection=KEYS)


def test_there_are_none_unless_asked_for(stand: Callable[..., Any]) -> None:
    keys = stand().definitions.resolve_asset_graph().get_all_asset_keys()
    assert "published" not in {key.path[0] for key in keys}


def test_rows_and_position_are_shown(
    stand: Callable[..., Any], manifest: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    position = Position("table", 7, epoch=1, published=40)
    done = [Published(f"bank_{OVER}", 4, position), Published(f"bank_{TUMBLE}", 0, replace(position, published=2))]
    result = _run(stand, manifest, instance, lambda settings, lake: done)
    assert result.success
    shown = [
        {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    ]
    assert shown == [
        {"rows": 4, "published": 40, "commit": 7, "epoch": 1},
        {"rows": 0, "published": 2, "commit": 7, "epoch": 1},
    ]


def test_a_refusal_fails_the_step_and_says_what_to_do(
    stand: Callable[..., Any], manifest: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    def refuse(*_: object) -> list[Published]:
        raise OutputTopicMissingError("there is no topic", "create it")

    result = _run(stand, manifest, instance, refuse)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data.metadata["what to do"].value == "create it"
