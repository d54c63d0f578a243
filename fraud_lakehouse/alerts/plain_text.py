"""Untrusted text in messages: values of payments, names and errors must not forge a line, mention, link or markup.

Services differ in what they interpret, and some ignore the declared format. So nothing here depends on the service:
what any of them treats as markup is replaced by a look-alike or split by the invisible U+200B. Ordinary text has little
of it and stays unchanged.
"""

from __future__ import annotations

import re
from typing import Any

VALUE_LENGTH = 100
_JOINERS = "\u200c\u200d"  # spelling in Persian and Indic scripts, and emoji; they do not affect later text
_GAP = "\u200b"
_LOOKALIKES = str.maketrans("<>*`~|_", "\u2039\u203a\u2217\u2035\u223c\u2223\uff3f")
_MARKUP = re.compile(
    r"(?P<mark>[<>*`~|]|(?<![^\W_])_|_(?![^\W_]))"  # tags, emphasis, code, tables; not `_` within a word
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
    """The text in one line, without control characters, escape sequences and changes of direction."""
    return "".join(
        char if char.isprintable() or char in _JOINERS else " " if char.isspace() else "\ufffd" for char in text
    )


def one_line(value: Any, length: int = VALUE_LENGTH) -> str:
    """A value as text for people: printable, whitespace collapsed, cut to `length` characters."""
    text = " ".join(printable(str(value)[: 4 * length]).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def inert(line: str) -> str:
    """A line in which no service finds a mention, link or markup; it looks the same, or almost."""
    return _MARKUP.sub(lambda found: found[0].translate(_LOOKALIKES) if found["mark"] else found[0] + _GAP, line)
