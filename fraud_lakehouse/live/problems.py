"""Current problems of the live cycle's components, described for people; each stays until the component works again.

Components are a source's name, "model <name>", "rule <name>" and "project" (a change of it is invalid). The background
worker has "publish", "validator" (transfers are not judged), "upkeep", "observations" and "judgements"
(control/idle_partitions or silver/transfer_judgements cannot be read), "lane <name>" (a tier was not
built at all) and "beside" (the worker died).
"""

from __future__ import annotations

from collections.abc import Iterable

from fraud_lakehouse.transform.build_result import NodeResult


def broken_models(failed: Iterable[NodeResult]) -> dict[str, str]:
    """By "model <name>": why a model failed, or that it was skipped because of another, and whose rows wait for it.

    Failing tests are not included: they do not stop rows, and the asset check has their evidence.
    """
    return {f"model {node.name}": node.reason for node in failed}
