"""The proposal as files of a pipeline folder. Writes only what passes `pipeline check`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fraud_lakehouse.discovery.proposal import Proposal
from fraud_lakehouse.discovery.text import Entry
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.pipeline import Pipeline, find_mistakes, load_pipeline

SOURCES, STREAMS = "sources.yml", "streams.yml"
_FILES = (SOURCES, STREAMS)
_HEADERS = {
    SOURCES: """\
# Where rows come from, as found by `fraud-lakehouse discover`. Entries in comments are not captured.
# Connections are never written here: dsn_env and servers_env name the environment variable that has the connection.
""",
    STREAMS: """\
# Which of these rows are payments, and what their columns mean, as guessed by `fraud-lakehouse discover`.
# Each line has the reason; a commented line below it is an alternative. Check it with `fraud-lakehouse pipeline check`.
""",
}
_ADDED = "# Added by `fraud-lakehouse discover`.\n"
_NONE = re.compile(r"^\{\}[ \t]*(#.*)?\n?", re.MULTILINE)


class ProposalError(LakehouseError):
    """The proposal conflicts with the folder."""


def present_entries(folder: Path, environment: Mapping[str, str]) -> Pipeline | None:
    """What a folder declares; None if it has neither file.

    Raises:
        PipelineError: its files have mistakes, or there is only one of them.
    """
    if not any((folder / name).exists() for name in _FILES):
        return None
    return load_pipeline(folder, environment)


def file_texts(proposal: Proposal, folder: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The files' texts by name; new entries are appended to existing files.

    Raises:
        ProposalError: entries cannot be appended to a file as it is written.
    """
    entries = {SOURCES: proposal.sources, STREAMS: proposal.streams}
    texts = {name: _text(name, entries[name], folder / name if folder else None) for name in _FILES}
    with tempfile.TemporaryDirectory(prefix="fraud-lakehouse-discover-") as scratch:
        for name, text in texts.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        mistakes = find_mistakes(Path(scratch), environment)
    if mistakes:
        raise ProposalError(
            "the proposal conflicts with the existing entries: " + "; ".join(map(str, mistakes)),
            "write it into a new folder, and copy what you need",
        )
    return texts


def write_folder(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write the files and return them. A folder without features.yml uses the shipped features.

    Raises:
        LakehouseError: the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            path = folder / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                unfinished = path.with_suffix(".yml.new")
                unfinished.write_text(text, encoding="utf-8")
                unfinished.replace(path)
                written.append(path)
    except OSError as error:
        raise ProposalError(f"the folder {folder} cannot be written: {error}", "name another by --folder") from None
    return written


def _text(name: str, entries: Sequence[Entry], path: Path | None) -> str:
    """A file's text: its current content, then the entries; `{}` if there are none."""
    added = "\n".join(map(str, entries))
    if path is None or not path.exists():
        is_empty = not any(entry.is_proposed for entry in entries)
        nothing = "\n{} # nothing is proposed; delete this line when you uncomment an entry\n" if is_empty else ""
        return _HEADERS[name] + nothing + (f"\n{added}" if added else "")
    text = path.read_text(encoding="utf-8-sig")
    if not entries:
        return text
    if any(entry.is_proposed for entry in entries):
        text = _NONE.sub("", text)
    return text.rstrip("\n") + f"\n\n{_ADDED}{added}"
