"""Which prepared project the processes of a lake build by: the last one whose hot lane was found to hold.

A note in the work folder names it. Who has rehearsed a changed project writes the note, who builds reads it. Without
one, as after the folder was emptied, the first process to start rehearses the project it finds.
"""

from __future__ import annotations

import os
from contextlib import suppress

from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.project import PreparedProject


class Accepted:
    """The note of a lake.

    Args:
        settings: its work folder has the note, its cache the prepared projects.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.work_dir / "project"
        self._home = settings.cache_dir / "dbt"

    def read(self) -> PreparedProject | None:
        """The project accepted last; None where there is none, or where it was cleared away."""
        try:
            name = self._path.read_text().strip()
        except OSError:
            return None
        prepared = PreparedProject(self._home / name)
        return prepared if name and prepared.is_parsed else None

    def write(self, prepared: PreparedProject) -> None:
        """Accept a project, in one piece for whoever reads.

        Raises:
            LakeError: the work folder cannot be written.
        """
        unseen = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unseen.write_text(prepared.folder.name)
            unseen.replace(self._path)
        except OSError as error:
            fix = "point FRAUD_WORK at a folder this user may write"
            raise LakeError(f"the note {self._path} cannot be written: {error.strerror or error}", fix) from None

    def keep(self, prepared: PreparedProject) -> None:
        """Say that a project is still in use: prepared ones that nobody has used for a week are removed."""
        with suppress(OSError):
            os.utime(prepared.folder)
