"""Failpoints: the list and the source say the same, off costs nothing, each action does what it is called."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fraud_lakehouse import failpoints
from fraud_lakehouse.errors import SettingsError

PACKAGE = Path(failpoints.__file__).resolve().parent


def names_in_source() -> Counter[str]:
    """Each `failpoint("...")` of the package; what a name's f-string fills in stands as `{layer}` or `{model}`."""
    found: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                found[written(node.args[0])] += 1
    return found


def written(argument: ast.expr) -> str:
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    assert isinstance(argument, ast.JoinedStr), ast.dump(argument)
    parts = [part.value if isinstance(part, ast.Constant) else None for part in argument.values]
    filled = "{model}" if parts[0] == "model." else "{layer}"
    return "".join(filled if part is None else str(part) for part in parts)


def test_every_listed_failpoint_is_in_the_source_once_and_no_other() -> None:
    assert names_in_source() == Counter(list(failpoints.POINTS))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"there is no failpoint 'bronze\.somewhere'"):
        failpoints.arm_from("bronze.somewhere")


@pytest.mark.parametrize("text", ["bronze.after_commit:0", "bronze.after_commit:x", "bronze.after_commit:1:burn"])
def test_a_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"name\[:hits\]\[:action\]"):
        failpoints.arm_from(text)


@pytest.mark.parametrize("name", ["bronze.after_commit", "gold.after_commit", "model.user_avg.before_commit"])
def test_a_name_is_known_by_its_pattern(name: str) -> None:
    assert failpoints.pattern_of(name) in failpoints.POINTS
    failpoints.arm_from(name)
    failpoints.failpoint("postgres.before_read")  # another one: nothing happens


def test_failpoints_are_off_by_default() -> None:
    failpoints.failpoint("bronze.after_parquet")
    assert failpoints._armed.name is None


def test_a_full_disk_is_met_once_and_at_the_named_hit_only() -> None:
    failpoints.arm_from("bronze.after_parquet:2:enospc")
    failpoints.failpoint("bronze.after_parquet")
    with pytest.raises(OSError, match="No space left"):
        failpoints.failpoint("bronze.after_parquet")
    failpoints.failpoint("bronze.after_parquet")


def test_a_failure_is_met_from_the_named_hit_on() -> None:
    failpoints.arm_from("model.user_avg.before_commit:2:fail")
    failpoints.failpoint("model.user_avg.before_commit")
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            failpoints.failpoint("model.user_avg.before_commit")
    failpoints.disarm()


def test_a_failpoint_kills_at_the_named_hit_only() -> None:
    code = (
        "from fraud_lakehouse.failpoints import arm_from, failpoint\n"
        "there, here = 'kafka.before_read', 'kafka.after_read'\n"
        "arm_from(f'{here}:2')\n"
        "for name in (there, here, there):\n    failpoint(name); print(name, flush=True)\n"
        "failpoint(here); print('not reached', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["kafka.before_read", "kafka.after_read", "kafka.before_read"]
    assert done.returncode == -9
