"""The death of a process in the middle, as far as the code under test can tell: `arm(point, action=crash)`.

Real processes that are really killed are in tests/integration and tests/soak.
"""

from __future__ import annotations

from typing import NoReturn


class Crash(BaseException):
    """The process dies here; no handler of the product catches it."""


def crash() -> NoReturn:
    raise Crash
