"""Fail when an installed package has a licence that is not allowed here: `licences.py SBOM.json` (CycloneDX)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ALLOWED = {
    *(
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
    ),
    *("PSF-2.0", "Python-2.0", "Zlib"),
    *("LGPL-3.0-only", "MPL-2.0"),  # used as they are; only changed files of theirs would have to be published
    *(f"License :: OSI Approved :: {name}" for name in ("Apache Software License", "BSD License")),
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)",
}
SAYS_NOTHING = {"License :: OSI Approved", "License :: DFSG approved"}
KNOWN = {  # packages whose metadata has no licence, or offers several
    "antlr4-python3-runtime": "BSD-3-Clause",
    "protobuf": "BSD-3-Clause",
    "codespell": "GPL-2.0-only; a tool of `make lint`, no part of the product",
    "text-unidecode": "Artistic License, by choice; the GPL is the other",
}


def problems(packages: list[dict[str, Any]]) -> list[str]:
    """One line a package that is not allowed, sorted. Of licences combined by AND or OR, all must be allowed."""
    found = []
    for package in packages:
        licences = set(_licences(package)) - SAYS_NOTHING
        if package["name"] not in KNOWN and (wrong := licences - ALLOWED or (not licences and {"no licence"})):
            found.append(f"{package['name']} {package['version']}: {', '.join(sorted(wrong))}")
    return sorted(found)


def _licences(package: dict[str, Any]) -> Iterator[str]:
    for one in package.get("licenses", []):
        licence = one.get("license", {})
        text = one.get("expression") or licence.get("id") or licence.get("name") or ""
        parts = [text] if text.startswith("License ::") else re.split(r" AND | OR |[()]", text)
        yield from (part.strip() for part in parts if part.strip())


def main(sbom: Path) -> int:
    """Print what is not allowed; return 1 if there is any, or no package at all."""
    packages = json.loads(sbom.read_text())["components"]
    found = problems(packages)
    for problem in found:
        print(f"licence not allowed: {problem} (see .ci/licences.py)", file=sys.stderr)
    print(f"{len(packages)} packages, {len(found)} of them with a licence that is not allowed")
    return 1 if found or not packages else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
