"""What is wrong in parts of the live cycle, in words for people, until the part is well again.

Parts are a source's name, "model <name>", "project" (a change of it was refused), and of the process beside "publish",
"upkeep", "observations" (control/idle_partitions cannot be read), "lane <name>" (not built at all) and "beside" (it
died).
"""

from __future__ import annotations

from fraud_lakehouse.transform.build_result import BuildResult


def broken_models(result: BuildResult) -> dict[str, str]:
    """By "model <name>": why a model of a build failed, or that it was skipped because of another.

    A failing test is none of them: it leaves the rows where they belong, and its evidence is the check's.
    """
    return {f"model {node.name}": node.reason for node in result.failed_models}
