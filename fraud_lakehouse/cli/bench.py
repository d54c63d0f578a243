"""Finds the benchmarks of `benchmarks/` by name and runs one in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from fraud_lakehouse.errors import LakehouseError, SettingsError
from fraud_lakehouse.shipped import shipped_path

FOLDER = shipped_path("benchmarks")


def benchmark_names() -> list[str]:
    """Names of the benchmarks of this checkout, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def run_benchmark(name: str, *, as_json: bool) -> None:
    """Run a benchmark; "list" prints the names.

    Raises:
        SettingsError: there is no such benchmark, or none at all outside a checkout. LakehouseError: it failed.
    """
    names = benchmark_names()
    if not names:
        raise SettingsError("the benchmarks are not part of the wheel", "run them in a checkout of the repository")
    if name == "list":
        print("\n".join(names))
        return
    if name not in names:
        raise SettingsError(f"there is no benchmark {name!r}", f"use one of: {', '.join(names)}")
    command = [sys.executable, str(FOLDER / f"{name}.py"), *(["--json"] if as_json else [])]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise LakehouseError(f"benchmark {name} ended with exit code {code}", "see what it printed")
