"""Files that come with the package but are no Python: the dbt project, the default pipeline, dagster.yaml.

In a checkout they are next to the package; a wheel has them inside it (`[tool.hatch.build]` in pyproject.toml).
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "shipped_files"


def shipped_path(name: str) -> Path:
    """Where a file or folder is that comes with the package; it may be missing.

    Args:
        name: what it is called in the root of the repository, such as "dbt_project".
    """
    return (_INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent) / name
