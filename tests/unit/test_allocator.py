"""Memory is given back: said before polars and delta-rs are loaded, by everything that runs for long."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

OURS = "narenas:1,lg_tcache_max:8,dirty_decay_ms:100,muzzy_decay_ms:0"
SAY = "import os, sys; import {module}; {then}; print(os.environ.get('_RJEM_MALLOC_CONF'), 'polars' in sys.modules)"

SAY_IT = SAY.format(module="fraud_lakehouse.cli.commands", then="fraud_lakehouse.cli.commands.give_memory_back()")


@pytest.mark.parametrize(
    "module, then",
    [
        ("fraud_lakehouse.defs", "pass"),
        ("fraud_lakehouse.cli.commands", "fraud_lakehouse.cli.commands.give_memory_back()"),
    ],
)
@pytest.mark.parametrize(
    "given, output",
    [
        (None, OURS),
        ("narenas:4", "narenas:4"),
        ("dirty_decay_ms:500", f"{OURS},dirty_decay_ms:500"),  # as every child of a process with polars is given
    ],
)
def test_it_is_said_before_the_libraries_are_there(module: str, then: str, given: str | None, output: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "_RJEM_MALLOC_CONF"}
    done = subprocess.run(
        [sys.executable, "-c", SAY.format(module=module, then=then)],
        env=environment | ({"_RJEM_MALLOC_CONF": given} if given else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [output, "False"]


def test_it_holds_in_a_child_of_a_process_that_has_polars() -> None:
    child = f"import subprocess, sys, polars; subprocess.run([sys.executable, '-c', {SAY_IT!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert "narenas:1" in done.stdout.split()[0]
