"""The errors a person sees. Each names the thing, what was expected and what to do.

Every error raised on purpose derives from `LakehouseError`; the command line prints it without a traceback. Any other
exception is a defect and keeps its traceback.

A class that sets `exit_code` begins a family: its subclasses exit with the same code. `EXIT_CODES` lists all codes;
`fraud-lakehouse --help` and the reference page of errors print it.
"""

from __future__ import annotations

EXIT_CODES = {
    0: "done",
    1: "an error of another kind, with its remedy",
    2: "a setting, option or argument is missing or wrong",
    3: "a source cannot be reached, or does not allow what is needed",
    4: "a gap: changes or records after our position are gone",
    5: "the lake cannot be read or written",
    6: "another process writes to this lake",
    7: "a dbt model failed, or the project is wrong",
    8: "features could not be published to Kafka; everything else is done",
    9: "a file that was given (labels, corrections, a replay) cannot be used",
    10: "the files of the pipeline folder have mistakes, each printed with its line",
    70: "a defect of this program; its traceback is printed",
    130: "interrupted (Ctrl-C) before there was anything to finish",
}
"""Meaning of each exit code of `fraud-lakehouse`."""

DEFECT = 70
"""Exit code of an error nobody raised on purpose (EX_SOFTWARE of sysexits.h)."""


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
    """Rows between our position and the source's are gone: capture stops instead of skipping them."""

    exit_code = 4


class LakeError(LakehouseError):
    """The lake cannot be read or written."""

    exit_code = 5


class ConcurrentWriterError(LakeError):
    """Another writer committed for the same source first; the fence rejected our commit."""

    exit_code = 6


class TransformError(LakehouseError):
    """The dbt project does not parse or a model failed."""

    exit_code = 7


class InputFileError(LakehouseError):
    """An input file cannot be read, or its content is not as expected."""

    exit_code = 9


class LabelsError(InputFileError):
    """Labels, or the request for them, cannot be used to compute features."""
