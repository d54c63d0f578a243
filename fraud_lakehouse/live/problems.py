"""What is wrong in parts of the live cycle, in words for people, until the part is well again.

Parts are a source's name, "model <name>", "rule <name>", "project" (a change of it was refused), and of the process
beside "publish", "upkeep", "observations" (control/idle_partitions cannot be read), "lane <name>" (not built at all)
and "beside" (it died).
"""

from __future__ import annotations

from collections.abc import Iterable

from fraud_lakehouse.transform.build_result import NodeResult


def broken_models(failed: Iterable[NodeResult]) -> dict[str, str]:
    """By "model <name>": why a model failed, or that it was skipped because of another, and whose rows wait for it.

    A failing test is none of them: it leaves the rows where they belong, and its evidence is the check's.
    """
    return {f"model {node.name}": node.reason for node in failed}
