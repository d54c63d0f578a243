"""A YAML file as plain values, each with its line.

Scalars are read as YAML 1.2 has them: null, true, false and decimal numbers; all else is text, so that `no`, `1:30`
and dates stay what was written. What YAML allows and nobody means (a key twice, a key that is no text, an alias within
itself) is a mistake. What the values mean is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fraud_lakehouse.pipeline.mistakes import Location, Mistake, place, shown

_DEEPEST = 20  # levels of lists and mappings; a pipeline needs six
_MOST_VALUES = 100_000  # with aliases spelt out; a short file of nested aliases could be endless
_LONGEST_INTEGER = 18  # digits; a longer number is read as a floating-point number
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # control characters, halves of surrogate pairs
_TAG = "tag:yaml.org,2002:"


@dataclass
class Document:
    """A file's top-level mapping.

    Args:
        file: its name, without the folder.
        is_read: whether there is a mapping; if not, `mistakes` says why.
        lines: the line of each key and of each list item.
    """

    file: str
    is_read: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def existing(self, location: Location) -> Location:
        """A location, or the nearest one above it that is in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return location

    def line(self, location: Location) -> int:
        """The line of a location, or of the nearest one above it that is in the file."""
        return self.lines.get(self.existing(location), 1)

    def report(self, location: Location, problem: str) -> None:
        """Add a mistake at a location."""
        self.mistakes.append(Mistake(self.file, self.line(location), f"{place(location)}: {problem}"))


def read_document(path: Path, what: str) -> Document:
    """Read a file; never raises on what it holds, nor where it cannot be read.

    Args:
        what: what its mapping holds, as "sources by name", for messages.
    """
    document = Document(path.name)

    def fail(problem: str, line: int = 1) -> Document:
        document.mistakes.append(Mistake(path.name, line, problem))
        return document

    try:
        content = path.read_bytes()
    except OSError as error:
        return fail(f"cannot be read in {path.parent} ({error.strerror}), expected a file with {what}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return fail(f"not UTF-8: {error.reason}", content.count(b"\n", 0, error.start) + 1)
    last = max(len(text.splitlines()), 1)
    try:
        node = _Loader(text).get_single_node()
        if node is None:
            return fail(f"the file is empty, expected a mapping with {what}; {{}} stands for none")
        values = _Converter(document).value(node, (), 0)
    except yaml.reader.ReaderError as error:
        line = min(text.count("\n", 0, error.position) + 1, last)
        return fail(f"not YAML: a character that YAML does not allow, U+{ord(text[error.position]):04X}", line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return fail(f"not YAML: {_plain(error)}", min(mark.line + 1, last) if mark else 1)
    except yaml.YAMLError:
        return fail("not YAML")
    if not isinstance(values, dict):
        return fail(f"found {shown(values)}, expected a mapping with {what}", _line(node))
    document.values, document.is_read = values, True
    return document


def _plain(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context)
    if problem.startswith("but "):  # as in: expected a single document in the stream, but found another document
        problem = f"{error.context}, {problem}"
    if r"'\t'" in problem:
        return "a tab; YAML is indented with spaces"
    return problem if problem.isprintable() and not re.search("=|://|@", problem) else "it cannot be read"


class _Loader(yaml.SafeLoader):
    """Composes nodes, with the scalars of YAML 1.2 and a limit of depth."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared so by the base class
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _too_deep(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def _too_deep(mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem="lists and mappings nested too deeply", problem_mark=mark)


class _Converter:
    """Nodes into values; notes each one's line, and reports what is wrong with single ones."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0
        self._within: list[yaml.Node] = []

    def value(self, node: yaml.Node, at: Location, line: int) -> Any:
        """The value of a node; None where it has none.

        Raises:
            yaml.MarkedYAMLError: it is nested too deeply, or there are too many.
        """
        self._count += 1
        if self._count > _MOST_VALUES:
            raise yaml.MarkedYAMLError(problem="too many values", problem_mark=node.start_mark)
        if at:
            self._document.lines[at] = line
        if any(node is outer for outer in self._within):
            self._document.report(at, "an alias within what it stands for, expected an end")
            return None
        if len(self._within) >= _DEEPEST:
            raise _too_deep(node.start_mark)
        self._within.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, at)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return [self.value(item, (*at, index), _line(item)) for index, item in enumerate(node.value)]
            return self._scalar(node, at)
        finally:
            self._within.pop()

    def _mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            key = self._key(key_node)
            if key is None:
                self._report(at, line, "found a key that is no text, expected a name (in quotes if it is a number)")
            elif key in values:
                first = self._document.lines[(*at, key)]
                self._report((*at, key), line, f"the key is there twice, first in line {first}, expected once")
            else:
                values[key] = self.value(value_node, (*at, key), line)
        return values

    def _key(self, node: yaml.Node) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TAG + "str" or _UNFIT.search(node.value):
            return None
        return str(node.value)

    def _scalar(self, node: yaml.Node, at: Location) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if not isinstance(node, yaml.ScalarNode):
            text, kind = None, ""
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int" and len(text) <= _LONGEST_INTEGER:
                return int(text)
            if kind in ("int", "float"):
                return float(text)
        except (ValueError, KeyError):  # its tag was written out
            kind = ""
        if kind != "str":
            self._document.report(at, "found a YAML tag, expected a value without one")
        elif _UNFIT.search(text):
            self._document.report(at, "found a control character or half of a surrogate pair, expected a text")
            return None
        return text

    def _report(self, at: Location, line: int, problem: str) -> None:
        where = f"{place(at)}: " if at else ""
        self._document.mistakes.append(Mistake(self._document.file, line, where + problem))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
