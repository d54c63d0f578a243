"""Changes a table's properties without requiring more of its readers.

On a table with a timestamp without time zone, delta-rs' own `set_table_properties` (1.6.6) adds the reader feature
`variantType`, which no column uses and older engines reject. So this module writes the commit of a local table itself:
the same metadata with other properties, and a protocol without that feature if it is present.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from deltalake import DeltaTable, PostCommitHookProperties

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.compaction import ONLY_NEXT

_UNUSED = "variantType"
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def set_properties(handle: DeltaTable, root: Path | None, values: Mapping[str, str]) -> bool:
    """Set these properties, and remove the unused feature from the protocol, in one durable commit.

    Returns:
        whether a commit was needed.

    Args:
        handle: the table; afterwards at the commit's version.
        root: the folder of a local table; None: delta-rs sets the properties.

    Raises:
        ConcurrentWriterError: another writer committed since the handle's version; nothing changed.
    """
    known = handle.metadata().configuration
    changed = {name: value for name, value in values.items() if known.get(name) != value}
    if root is None:
        if changed:
            handle.alter.set_table_properties(
                changed, raise_if_not_exists=False, commit_properties=ONLY_NEXT, post_commithook_properties=_NO_HOOKS
            )
        return bool(changed)
    protocol = _mended_protocol(handle)
    if not changed and protocol is None:
        return False
    now = time.time_ns() // 1_000_000
    info = {
        "timestamp": now,
        "operation": "SET TBLPROPERTIES",
        "operationParameters": {"properties": json.dumps(changed)},
    }
    actions: list[dict[str, Any]] = [{"commitInfo": info}]
    actions += [{"protocol": protocol}] if protocol is not None else []
    actions += [{"metaData": _metadata(handle, {**known, **changed})}] if changed else []
    durable.check_not_left_behind(root, handle.version())
    version = handle.version() + 1
    # Not escaped: delta-rs 1.6.6 reads the escape of U+20000 and most later characters as another one.
    _commit(root, version, "".join(json.dumps(action, ensure_ascii=False) + "\n" for action in actions))
    durable.check_not_left_behind(root, version - 1)
    handle.load_as_version(version)  # not the newest: positions read on the handle must stay valid
    return True


def _mended_protocol(handle: DeltaTable) -> dict[str, Any] | None:
    protocol = handle.protocol()
    if _UNUSED not in (protocol.reader_features or ()) or '"variant"' in handle.schema().to_json():
        return None
    return {
        "minReaderVersion": protocol.min_reader_version,
        "minWriterVersion": protocol.min_writer_version,
        "readerFeatures": sorted(set(protocol.reader_features or ()) - {_UNUSED}),
        "writerFeatures": sorted(set(protocol.writer_features or ()) - {_UNUSED}),
    }


def _metadata(handle: DeltaTable, properties: Mapping[str, str | None]) -> dict[str, Any]:
    known = handle.metadata()
    texts = {"name": known.name, "description": known.description, "createdTime": known.created_time}
    return {
        "id": str(known.id),
        **{name: value for name, value in texts.items() if value is not None},
        "format": {"provider": "parquet", "options": {}},
        "schemaString": handle.schema().to_json(),
        "partitionColumns": known.partition_columns,
        "configuration": {name: value for name, value in properties.items() if value is not None},
    }


def _commit(root: Path, version: int, text: str) -> None:
    """Add a complete, durable log entry, unless this version exists (by a hard link, as delta-rs does)."""
    unseen = root / durable.LOG / f"_commit_{uuid4()}.json.tmp"
    unseen.write_text(text, encoding="utf-8")
    try:
        durable.sync_file(unseen)
        os.link(unseen, durable.log_entry(root, version))
    except FileExistsError:
        raise ConcurrentWriterError(
            f"another writer committed version {version} of {root} first",
            "nothing was changed; the next cycle reads the table again and continues",
        ) from None
    finally:
        unseen.unlink()
    durable.sync_folder(root / durable.LOG)
