"""Fail when a test was skipped or expected to fail, or when none ran: `no_skips.py RESULTS.xml` (JUnit form)."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def main(results: Path) -> int:
    """Print each skipped test with its reason; return 1 if there is any, or no test at all."""
    cases = list(ET.parse(results).getroot().iter("testcase"))  # noqa: S314 (written by the run just before)
    skipped = [(case, skip) for case in cases for skip in case.iter("skipped")]
    for case, skip in skipped:
        print(f"skipped: {case.get('classname')}::{case.get('name')}: {skip.get('message')}", file=sys.stderr)
    if not cases:
        print(f"no test in {results}", file=sys.stderr)
    return 1 if skipped or not cases else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
