"""The log of a local table, kept short: the newest entries stay, what older ones added is packed beside the log.

Every open and every commit lists the log: 1 ms at 200 entries, 11 ms at 10,000, 170 ms at 86,400 (a day of one commit
a second). So only the newest `KEPT` entries and the checkpoints they need stay. What readers of new rows ask of older
ones goes into `<table>/_past/<first version>.jsonl`, a hundred versions to a file, as long as vacuum keeps the data.

An entry goes only below a checkpoint that is flushed, and only after its pack is: a reader finds it in one of the two.
A pack is never replaced: a process that was stopped while it trimmed, and goes on after another one has, would put one
with fewer entries there.
Versions below the kept entries can be opened where a checkpoint is: one an hour stays for a week.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fraud_lakehouse.lake import durable
from fraud_lakehouse.lake.durable import LOG, log_entry
from fraud_lakehouse.lake.failpoints import failpoint
from fraud_lakehouse.lake.writer_lock import TurnTakenError, process_lock

KEPT = 100
"""Entries that stay in the log, and up to two checkpoint intervals more."""

RENEWED = "renewed"
"""Transaction id of a commit that computed the rows of the version before it anew, and has no others."""

PACK = 100
PAST = "_past"
KEPT_SECONDS = 168 * 3600.0
_HOUR_NS = 3_600_000_000_000
_TRIMMING = "trimming.lock"


@dataclass(frozen=True)
class Entry:
    """What one version did to the rows: files it added with new rows, whether it did nothing else to rows.

    `files` are the log's paths: relative to the table, percent-encoded. `renewed`: it has the rows there were, computed
    anew.
    """

    version: int
    files: list[str]
    append_only: bool
    renewed: bool = False

    @staticmethod
    def parse(version: int, text: str) -> Entry:
        """The entry of a log file's text; actions that move rows without changing any do not count."""
        files, append_only, renewed = [], True, False
        for line in durable.lines_of(text):
            action = json.loads(line)
            if (add := action.get("add")) and add["dataChange"]:
                files.append(add["path"])
            elif (remove := action.get("remove")) and remove["dataChange"]:
                append_only = False
            elif (transaction := action.get("txn")) and transaction["appId"] == RENEWED:
                renewed = True
        return Entry(version, files, append_only, renewed)


@dataclass(frozen=True)
class Log:
    """What lies in the log's folder: versions with an entry and versions with a checkpoint, each ascending."""

    entries: list[int]
    checkpoints: list[int]

    @staticmethod
    def of(root: Path) -> Log:
        """List the log of the table in `root`."""
        entries: set[int] = set()
        checkpoints: set[int] = set()
        for name in os.listdir(root / LOG):
            if name[:20].isdigit():
                kind = entries if name.endswith(".json") and len(name) == 25 else checkpoints
                if kind is entries or ".checkpoint" in name:
                    kind.add(int(name[:20]))
        return Log(sorted(entries), sorted(checkpoints))


def entries(root: Path, first: int, last: int) -> list[Entry] | None:
    """What the versions `first`..`last` did, in order; None where one of them is not known any more."""
    if first > last:
        return []
    found: list[Entry] = []
    for start in range(first - first % PACK, last + 1, PACK):
        versions = range(max(first, start), min(last, start + PACK - 1) + 1)
        # Looked up again at the end: the pack may have been made, and the entries gone, since the first look.
        part = _packed(root, versions) or _in_log(root, versions) or _packed(root, versions)
        if part is None:
            return None
        found += part
    return found


def trim(root: Path) -> int:
    """Pack and remove the entries that are no longer needed in the log; returns how many were removed.

    One writer of a table does it at a time: a second one, which would pack what the first has removed, leaves it.
    """
    try:
        with process_lock(root / PAST / _TRIMMING, 0.0, "is trimming the log"):
            return _trim(root)
    except TurnTakenError:
        return 0


def _trim(root: Path) -> int:
    log = Log.of(root)
    if not log.entries:
        return 0
    needed = max((at for at in log.checkpoints if at <= log.entries[-1] - KEPT), default=0)
    old = [version for version in log.entries if version < needed - needed % PACK]
    if not old:
        return 0
    durable.sync_checkpoint(root, needed)
    for start in sorted({version - version % PACK for version in old}):
        hundred = [version for version in old if start <= version < start + PACK]
        if not _pack_of(root, start).exists():
            _pack(root, start, hundred)
        failpoint("log.after_pack")
        for version in hundred:
            log_entry(root, version).unlink(missing_ok=True)
    _thin_checkpoints(root, [at for at in log.checkpoints if at < needed])
    return len(old)


def forget(root: Path) -> None:
    """Remove packs older than a week: the files they name may be vacuumed."""
    if (root / PAST).is_dir():
        for pack in (root / PAST).glob("*.jsonl"):
            if pack.stat().st_mtime < time.time() - KEPT_SECONDS:
                pack.unlink(missing_ok=True)


def version_at(root: Path, moment: float) -> tuple[int, float] | None:
    """The newest version that can be opened of those written until `moment`, and when it was; None: there is none.

    Args:
        moment: seconds since 1970.
    """
    log = Log.of(root)
    whole = [at for at in log.checkpoints if at <= log.entries[0]] or [0]
    candidates = [*log.checkpoints, *(version for version in log.entries if version >= whole[-1])]
    dated = {version: _written_at(root, version) for version in candidates}
    return max(((version, at) for version, at in dated.items() if at <= moment), default=None)


def _written_at(root: Path, version: int) -> float:
    entry = log_entry(root, version)
    names = [entry] if entry.exists() else list((root / LOG).glob(f"{version:020}.checkpoint*"))
    return max((name.stat().st_mtime for name in names), default=float("inf"))


def _thin_checkpoints(root: Path, old: Sequence[int]) -> None:
    """Of checkpoints below the kept entries the last of each hour of a week stays, and the newest before that."""
    expired = time.time() - KEPT_SECONDS
    kept: dict[int, int] = {}  # hour -> version; -1: older than a week
    for version in old:
        written = [path.stat().st_mtime_ns for path in (root / LOG).glob(f"{version:020}.checkpoint*")]
        if not written:
            continue
        at = max(written)
        kept[at // _HOUR_NS if at / 1e9 >= expired else -1] = version
    for version in set(old).difference(kept.values()):
        for path in (root / LOG).glob(f"{version:020}.checkpoint*"):
            path.unlink(missing_ok=True)


def _pack_of(root: Path, start: int) -> Path:
    return root / PAST / f"{start:020}.jsonl"


def _pack(root: Path, start: int, versions: Sequence[int]) -> None:
    found = [part[0] for version in versions if (part := _in_log(root, [version]))]
    lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in found)
    begun = root / PAST / f"{start:020}.{os.getpid()}"
    begun.write_text(lines)
    durable.sync_file(begun)
    try:
        with suppress(FileExistsError):
            os.link(begun, _pack_of(root, start))
        begun.unlink()
    except OSError:  # a file system without links
        os.replace(begun, _pack_of(root, start))
    durable.sync_folder(root / PAST)


def _packed(root: Path, versions: Sequence[int]) -> list[Entry] | None:
    """The entries of one pack; None without the pack, or where it lacks one of them."""
    try:
        lines = durable.lines_of(_pack_of(root, versions[0] - versions[0] % PACK).read_text())
    except FileNotFoundError:
        return None
    known = {entry.version: entry for entry in (Entry(**json.loads(line)) for line in lines)}
    return [known[version] for version in versions] if known.keys() >= set(versions) else None


def _in_log(root: Path, versions: Sequence[int]) -> list[Entry] | None:
    try:
        return [Entry.parse(version, log_entry(root, version).read_text(encoding="utf-8")) for version in versions]
    except FileNotFoundError:
        return None
