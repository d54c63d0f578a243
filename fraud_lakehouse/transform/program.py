"""What a dbt build did in the plugin, kept to be done again without dbt, which takes some 40 ms a model.

dbt stays the definition. A program is what two builds in a row have called in the plugin, word for word; it holds for
one parsed project, one plugin and one command line. At every run each question must get the answer it got then: if not
(a table was made anew), or if anything fails, the run is given up and dbt builds. What a run given up has committed, it
has committed with its reading positions: dbt goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fraud_lakehouse.transform.build_result import NodeResult


class Performer(Protocol):
    """The plugin."""

    def carry_out(self, operation: str, call: dict[str, Any]) -> Any:
        """Carry out an operation and give its answer."""


@dataclass(frozen=True)
class Call:
    """One call of a macro: who carried it out, the operation, its arguments and the answer."""

    performer: Performer
    operation: str
    arguments: dict[str, Any]
    answer: Any

    @property
    def node(self) -> str:
        """Id of the model being compiled or run; empty for what comes before the first one."""
        return str(self.arguments.get("node", ""))

    def is_like(self, other: Call) -> bool:
        """Whether dbt asked for the same; how many rows were written may differ."""
        same = self.operation == other.operation and self.arguments == other.arguments
        return same and (self.operation == "write" or self.answer == other.answer) and self.performer is other.performer

    def repeat(self) -> bool:
        """Carry it out again; answers whether the answer still holds."""
        answer = self.performer.carry_out(self.operation, dict(self.arguments))
        return self.operation == "write" or bool(answer == self.answer)


@dataclass(frozen=True)
class Program:
    """The calls of one build by node, in the order the nodes ran, and what dbt said of each node."""

    calls: tuple[Call, ...]
    nodes: tuple[NodeResult, ...]

    @staticmethod
    def of(calls: Sequence[Call], nodes: Sequence[NodeResult]) -> Program | None:
        """The program of a build; None where a node failed or belongs to no model."""
        if not calls or any(not node.ok for node in nodes):
            return None
        return Program(tuple(calls), tuple(nodes))

    def is_like(self, other: Program | None) -> bool:
        """Whether two builds did the same."""
        return (
            other is not None
            and len(self.calls) == len(other.calls)
            and all(one.is_like(another) for one, another in zip(self.calls, other.calls, strict=True))
            and [(node.unique_id, node.status) for node in self.nodes]
            == [(node.unique_id, node.status) for node in other.nodes]
        )

    def run(self) -> dict[str, float] | None:
        """Do it again; seconds by node, or None where an answer no longer holds.

        Raises:
            Exception: whatever an operation raises.
        """
        seconds: dict[str, float] = {}
        for call in self.calls:
            started = time.monotonic()
            if not call.repeat():
                return None
            seconds[call.node] = seconds.get(call.node, 0.0) + time.monotonic() - started
        return seconds
