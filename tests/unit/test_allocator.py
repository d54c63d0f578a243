"""Memory is given back: said before polars and delta-rs are loaded, by everything that runs for long."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAY = "import os, sys; import {module}; {then}; print(os.environ.get('_RJEM_MALLOC_CONF'), 'polars' in sys.modules)"


@pytest.mark.parametrize(
    "module, then",
    [
        ("fraud_lakehouse.defs", "pass"),
        ("fraud_lakehouse.cli", "fraud_lakehouse.cli.give_memory_back()"),
    ],
)
@pytest.mark.parametrize("given", [None, "narenas:4"])
def test_it_is_said_before_the_libraries_are_there(module: str, then: str, given: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "_RJEM_MALLOC_CONF"}
    done = subprocess.run(
        [sys.executable, "-c", SAY.format(module=module, then=then)],
        env=environment | ({"_RJEM_MALLOC_CONF": given} if given else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [given or "narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0", "False"]
