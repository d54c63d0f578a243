"""Mistakes in the files of a pipeline folder, and the words in which they are reported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fraud_lakehouse.errors import LakehouseError

Location = tuple[str | int, ...]
"""Keys and list positions from the top of a file down to a value."""

_LONGEST = 60  # characters of a value that a message repeats
_MOST_NAMES = 20  # that a message lists
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_SECRET = re.compile("=|://|@")


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake: the file's name, the line (from 1) and what is wrong there.

    A file that is missing or empty has its mistake in line 1.
    """

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


class PipelineError(LakehouseError):
    """The pipeline folder has mistakes; `mistakes` are all of them."""

    exit_code = 10

    def __init__(self, folder: Path, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = "\n".join(map(str, mistakes))
        super().__init__(
            f"the pipeline folder {folder} has {count}:\n{lines}",
            "correct each; `fraud-lakehouse pipeline check` reports them without a lake or a server",
        )


def shown(value: Any) -> str:
    """A value of a file as a message names it. A text that may be a connection string is never repeated."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict | list | tuple):
        return f"{'a' if value else 'an empty'} {'mapping' if isinstance(value, dict) else 'list'}"
    if isinstance(value, bool | int | float):
        return f"the value {str(value).lower()}"
    if _SECRET.search(str(value)):
        return "a text with =, @ or :// (not repeated: it may be a secret)"
    text = str(value)
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def place(location: Iterable[str | int]) -> str:
    """A location as a path, such as `cards.topics[0].fields.amt`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += ("." if path else "") + (part if _PLAIN.fullmatch(part) and len(part) <= _LONGEST else shown(part))
    return path


def nearest(name: Any, valid: Iterable[str]) -> str:
    """`; did you mean X?` for the valid name most like this one, or nothing."""
    choices = {one.casefold(): one for one in reversed([*valid])}
    found = difflib.get_close_matches(str(name)[:200].casefold(), choices, 1)
    return f"; did you mean {place([choices[found[0]]])}?" if found else ""


def listed(names: Iterable[str]) -> str:
    """Names of a file, by commas; of many only the first."""
    every = [place([name]) for name in names]
    return ", ".join(every[:_MOST_NAMES]) + (", …" if len(every) > _MOST_NAMES else "")


def one_of(value: Any, valid: Sequence[str], what: str) -> str:
    """The value, where it is one of the valid ones.

    Raises:
        ValueError: what was found, what is valid, and the nearest of it.
    """
    if isinstance(value, str) and value in valid:
        return value
    raise ValueError(f"found {shown(value)}, expected {what}: {', '.join(valid)}{nearest(value, valid)}")
