"""Checks the documents: lines of prose wrap at 120, and none of the project's former private words comes back.

    python .ci/prose.py README.md CONTRIBUTING.md docs

Tables and code are left out of both checks. Prints a line for each finding; exits with 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

WIDTH = 120
INSTEAD = {
    r"hot (features|models|lane|tables)": "fast path",
    r"(replica|follow|hot) lane|lanes?": "fast path, or deferred models",
    r"beside": "next to; background worker",
    r"land(ed|s)? in bronze|landing": "ingested, ingestion",
    r"(takes?|took|in|has) (its|the|one|a) (own )?turns?": "lock, acquires the lock",
    r"mends?|mended": "correct, solve",
    r"anew": "again",
    r"is told|are told|tells": "reports, records, emits",
    r"judged?|verdict": "evaluate, result",
    r"simply|obviously|of course|just": "leave it out",
}
FORMER = [(re.compile(rf"\b({words})\b", re.IGNORECASE), better) for words, better in INSTEAD.items()]
CODE = re.compile(r"`[^`]*`|\]\([^)]*\)")


def main(names: list[str]) -> int:
    """Check files, and all Markdown files of folders."""
    paths = [Path(name) for name in names]
    files = [file for path in paths for file in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]
    found = [f"{file}:{line}: {problem}" for file in files for line, problem in problems(file.read_text("utf-8"))]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


def problems(text: str) -> Iterator[tuple[int, str]]:
    """Line and problem of each finding."""
    in_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        if in_code or line.lstrip().startswith("|"):
            continue
        if len(line) > WIDTH and " " in line[WIDTH:]:
            yield number, f"{len(line)} characters: wrap it at {WIDTH}"
        for pattern, better in FORMER:
            for word in pattern.finditer(CODE.sub("", line)):
                yield number, f"'{word[0]}': write instead: {better}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
