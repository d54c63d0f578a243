"""Window sizes as the catalogue writes them: "10 minutes", "1 hour", "30 days"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fraud_lakehouse.errors import TransformError

_UNITS = {"second": (1, "s"), "minute": (60, "min"), "hour": (3_600, "h"), "day": (86_400, "d")}
_SIZE = re.compile(rf"([1-9]\d*) ({'|'.join(_UNITS)})s?")


@dataclass(frozen=True)
class Window:
    """A window's size.

    Args:
        text: as written.
        short: as in column names: 10min, 1h, 30d.
        seconds: its length.
    """

    text: str
    short: str
    seconds: int

    @staticmethod
    def parse(text: str) -> Window:
        """Parse a size.

        Raises:
            TransformError: the text is not a size.
        """
        found = _SIZE.fullmatch(text)
        if found is None:
            raise TransformError(
                f"window {text!r} is not a size", 'write a whole number and a unit, such as "10 minutes" or "30 days"'
            )
        seconds, short = _UNITS[found[2]]
        return Window(text, f"{found[1]}{short}", int(found[1]) * seconds)
