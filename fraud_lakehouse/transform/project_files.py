"""The files of a dbt project: which ones are its own, and what tells whether one of them has changed."""

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
"""Of a folder and the names in it, those that are not the project's: what dbt makes, and editors beside open files."""

SETTLED_NS = 2_000_000_000  # longer than a tick of any file system's clock


@dataclass(frozen=True)
class Stamp:
    """What a project's files look like from outside: it differs once one was changed, added or removed.

    `marks`: path in the project, inode, size, when content and inode were changed last (ns). `is_settled`: no file is
    so new that it could be changed again within the same tick of the clock; what was read before is read again then.
    """

    marks: tuple[tuple[str, int, int, int, int], ...]
    is_settled: bool


def stamp_of(project: Path, but: str = "") -> Stamp:
    """The stamp of a project now; nothing is read.

    Args:
        but: the name of a folder that does not count.

    Raises:
        FileNotFoundError: a file went away meanwhile.
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
    """What tells a project from any other: a hash of its files and of the texts that take the place of some.

    Raises:
        FileNotFoundError: a file went away meanwhile.
    """
    digest = hashlib.sha256()
    for name, *_ in stamp.marks:
        digest.update(name.encode() + b"\0" + (project / name).read_bytes() + b"\0")
    for name in sorted(generated):
        digest.update(name.encode() + b"\0" + generated[name].encode() + b"\0")
    return digest.hexdigest()[:16]
