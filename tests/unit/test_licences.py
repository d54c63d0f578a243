"""The licence check of CI: which packages it reports."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

CHECK = runpy.run_path(str(Path(__file__).resolve().parents[2] / ".ci" / "licences.py"))


def package(*licenses: dict[str, Any], name: str = "some") -> dict[str, Any]:
    return {"name": name, "version": "1.0", "licenses": list(licenses)}


@pytest.mark.parametrize(
    "allowed",
    [
        package({"license": {"id": "MIT"}}),
        package({"expression": "(MIT OR Apache-2.0) AND BSD-2-Clause"}),
        package({"expression": "BSD-2-Clause AND Apache-2.0 WITH LLVM-exception"}),
        package({"license": {"name": "License :: OSI Approved"}}, {"license": {"id": "MIT"}}),
        package({"license": {"name": "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"}}),
        package(name="protobuf"),
    ],
)
def test_an_allowed_licence_is_not_reported(allowed: dict[str, Any]) -> None:
    assert CHECK["problems"]([allowed]) == []


@pytest.mark.parametrize(
    ("other", "output"),
    [
        (package({"license": {"id": "GPL-3.0-only"}}), "GPL-3.0-only"),
        (package({"license": {"id": "MIT"}}, {"license": {"id": "AGPL-3.0-only"}}), "AGPL-3.0-only"),
        (package({"expression": "MIT AND (GPL-2.0-only OR ISC)"}), "GPL-2.0-only"),
        (package({"license": {"name": "License :: OSI Approved"}}), "no licence"),
        (package(), "no licence"),
    ],
)
def test_any_other_licence_is_reported_with_its_package(other: dict[str, Any], output: str) -> None:
    assert CHECK["problems"]([other]) == [f"some 1.0: {output}"]
