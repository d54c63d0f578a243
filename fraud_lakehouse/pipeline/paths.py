"""The paths of a topic's fields as a tree: nested objects, arrays by position, and where each field is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from fraud_lakehouse.pipeline.mistakes import shown

if TYPE_CHECKING:
    from fraud_lakehouse.pipeline.sources import Field

_UNREADABLE = re.compile(r'["\\\x00-\x1f]')
_POSITION = re.compile(r"0|[1-9][0-9]{0,5}")


@dataclass
class Node:
    """A key of an object or a position of an array: a declared field, or what declared fields lie in."""

    declared: Field | None = None
    children: dict[str, Node] = field(default_factory=dict)

    @cached_property
    def is_array(self) -> bool:
        """Whether it is an array of which elements are declared."""
        return bool(self.children) and all(_POSITION.fullmatch(key) for key in self.children)

    @cached_property
    def inner(self) -> dict[str, Node]:
        """The children that are no field themselves."""
        return {key: child for key, child in self.children.items() if child.declared is None}

    @property
    def is_optional(self) -> bool:
        """Whether a record may lack it."""
        if self.declared is not None:
            return self.declared.optional
        return all(child.is_optional for child in self.children.values())

    def walk(self) -> Iterator[Node]:
        """The node and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def path_tree(fields: Iterable[Field]) -> Node:
    """The tree of the fields' paths; its root is a record.

    Raises:
        ValueError: a path cannot be read, or the paths of two fields exclude each other.
    """
    root = Node()
    for one in fields:
        of = f"the path {shown(one.path)} of {shown(one.name)}"
        if _UNREADABLE.search(one.path):
            raise ValueError(f"{of} has a quote, a backslash or a control character, expected none")
        node = root
        for key in one.path.split("."):
            if node.declared is not None:
                raise ValueError(f"{of} lies inside that of {shown(node.declared.name)}, expected only one of the two")
            node = node.children.setdefault(key, Node())
        if other := next((found.declared for found in node.walk() if found.declared is not None), None):
            relation = "is also that of" if node.declared is not None else "has inside it that of"
            raise ValueError(f"{of} {relation} {shown(other.name)}, expected only one of the two")
        node.declared = one
    for node in root.walk():
        positions = [key for key in node.children if _POSITION.fullmatch(key)]
        if positions and (node is root or not node.is_array):
            place = "at the beginning of a path" if node is root else "where another path has a key"
            raise ValueError(f"found the number {positions[0]} {place}, expected it only as a position in an array")
    return root
