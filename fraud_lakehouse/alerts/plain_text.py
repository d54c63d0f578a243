"""Text of others in messages: values from payments, names and errors must forge no line, mention, link or markup.

Services differ in what they interpret, and some ignore the format they are sent, so nothing here depends on the kind:
what any of them takes as markup is replaced by a look-alike or split by U+200B, which shows nothing. Ordinary text has
little of it and stays as it is.
"""

from __future__ import annotations

import re
from typing import Any

VALUE_LENGTH = 100
_JOINERS = "\u200c\u200d"  # spelling in Persian and Indic scripts, and in emoji; without effect on what follows
_GAP = "\u200b"
_LOOKALIKES = str.maketrans("<>*`~|_", "\u2039\u203a\u2217\u2035\u223c\u2223\uff3f")
_MARKUP = re.compile(
    r"(?P<mark>[<>*`~|]|(?<![^\W_])_|_(?![^\W_]))"  # tags, emphasis, code, tables; `_` within a word is none
    r"|[@\uff20#\uff03]"  # mentions and channels
    r"|\](?=[(\[:])"  # [text](address)
    r"|\[(?=\w+[:=])"  # [CQ:at,qq=all], [url=...]
    r"|&(?=#?\w+;)"  # &commat;
    r"|(?<!\d):(?=[\w+-]+:)"  # :emoji:, but not 12:00:00
    r"|:(?=//)"  # https://
    r"|^ *(?:[-+]|\d+[.)])(?= )"  # items of a list
    r"|(?<=\w)[.\uff0e\u3002\uff61](?=[^\W\d_]|\w*[^\W\d_]{2})"  # example.org, example.3com
)


def printable(text: str) -> str:
    """The text in one line, without control characters, escape sequences and changes of its direction."""
    return "".join(
        char if char.isprintable() or char in _JOINERS else " " if char.isspace() else "\ufffd" for char in text
    )


def one_line(value: Any, length: int = VALUE_LENGTH) -> str:
    """A value as text for people: printable, runs of space as one, cut to `length` characters."""
    text = " ".join(printable(str(value)[: 4 * length]).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def inert(line: str) -> str:
    """A line such that no service takes any of it as mention, link or markup; it looks the same, or almost."""
    return _MARKUP.sub(lambda found: found[0].translate(_LOOKALIKES) if found["mark"] else found[0] + _GAP, line)
