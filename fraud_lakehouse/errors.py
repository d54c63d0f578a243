"""The errors a person sees: each names the thing, what was expected and what to do.

Every error raised on purpose derives from `LakehouseError`; the command line prints it without a
traceback. Anything else that escapes is a defect and keeps its traceback.
"""

from __future__ import annotations


class LakehouseError(Exception):
    """A condition a person can act on.

    Args:
        problem: what is wrong, naming the thing ("replication slot 'x' does not exist").
        fix: what to do about it, as an instruction.
    """

    exit_code = 1

    def __init__(self, problem: str, fix: str = "") -> None:
        self.problem = problem
        self.fix = fix
        super().__init__(f"{problem}\n  -> {fix}" if fix else problem)


class SettingsError(LakehouseError):
    """A setting is missing or has a wrong value."""

    exit_code = 2


class SourceError(LakehouseError):
    """A source cannot be reached or does not allow what capture needs."""

    exit_code = 3


class GapError(LakehouseError):
    """Rows between our position and the source's are gone: capture stops rather than skip them."""

    exit_code = 4


class LakeError(LakehouseError):
    """The lake cannot be read or written."""

    exit_code = 5


class ConcurrentWriterError(LakeError):
    """Another writer committed on the same source first; our commit was refused by the fence."""

    exit_code = 6


class TransformError(LakehouseError):
    """The dbt project does not parse or a model failed."""

    exit_code = 7


class LabelsError(LakehouseError):
    """Labels, or what is asked of them, cannot be used to tell features."""

    exit_code = 8
