"""The files of a dbt project: which files belong to it, and how a change is detected."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

ignored = shutil.ignore_patterns(
    "target", "logs", "dbt_packages", "profiles.yml", ".user.yml", "__pycache__", ".#*", "*.swp"
)
"""Names in a folder that do not belong to the project: dbt's output, and editors' temporary files."""

SETTLED_NS = 2_000_000_000  # longer than a clock tick of any file system


@dataclass(frozen=True)
class Stamp:
    """Metadata of a project's files: it differs after a file was changed, added or removed.

    `marks`: path in the project, inode, size, modification and change time (ns). `is_synced`: no file is so new that
    it could change again within the same clock tick; otherwise the files must be read again.
    """

    marks: tuple[tuple[str, int, int, int, int], ...]
    is_synced: bool


def stamp_of(project: Path, but: str = "") -> Stamp:
    """A project's current stamp; no file is read.

    Args:
        but: the name of a folder to ignore.

    Raises:
        FileNotFoundError: a file disappeared meanwhile.
    """
    root, marks = str(project), []
    for folder, folders, names in os.walk(root):
        others = ignored(folder, [*folders, *names]) | {but}
        folders[:] = sorted(name for name in folders if name not in others)
        for name in sorted(name for name in names if name not in others):
            path = os.path.join(folder, name)
            found = os.stat(path)
            marks.append(
                (os.path.relpath(path, root), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            )
    newest = max((max(mark[3:]) for mark in marks), default=0)
    return Stamp(tuple(marks), time.time_ns() - newest > SETTLED_NS)


def digest_of(project: Path, stamp: Stamp, generated: dict[str, str]) -> str:
    """Identifies a project: a hash of its files and of the generated texts that replace some of them.

    Raises:
        FileNotFoundError: a file disappeared meanwhile.
    """
    digest = hashlib.sha256()
    for name, *_ in stamp.marks:
        digest.update(name.encode() + b"\0" + (project / name).read_bytes() + b"\0")
    for name in sorted(generated):
        digest.update(name.encode() + b"\0" + generated[name].encode() + b"\0")
    return digest.hexdigest()[:16]
