"""Python environments of their own, for packages that clash with the product's: made once with pip, and kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.optional import cache

FETCH_SECONDS = 600


class NotFetchedError(Exception):
    """pip could not fetch the packages; says why."""


def environment(name: str, version: str, lock: str) -> Path:
    """The interpreter of an environment with exactly these packages, under `cache(name, version)`.

    Args:
        lock: a requirements file with hashes.

    Raises:
        NotFetchedError: it is not there yet, and cannot be made.
    """
    root = cache(name, version)
    python = root / "venv" / "bin" / "python"
    if (root / "complete").exists():
        return python
    root.mkdir(parents=True, exist_ok=True)
    (root / "requirements.lock").write_text(lock)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(root / "venv")], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"]
    try:
        fetched = subprocess.run(
            [*command, root / "requirements.lock"], capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotFetchedError(f"pip did not fetch {name} within {FETCH_SECONDS} s") from None
    if fetched.returncode != 0:
        raise NotFetchedError(f"pip could not fetch {name}: {fetched.stderr.strip()[-300:]}")
    (root / "complete").touch()
    return python


def is_fetched(name: str, version: str) -> bool:
    """Whether the environment is there."""
    return (cache(name, version) / "complete").exists()
