"""What `status` says of transfers: how many wait, how many are judged, and how the validator has answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from fraud_lakehouse.detection.validator.pending import JUDGEMENTS, TRANSFERS, UNIDENTIFIED
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake, scan

_FILE = "validator.json"


def save_state(work: Path, problem: str | None, failures: Mapping[str, int]) -> None:
    """Write how the validator has answered, for `status`; a disk that is full leaves the last one."""
    path = work / _FILE
    content = {"at": datetime.now(UTC).isoformat(), "problem": problem, "failures": dict(failures)}
    with suppress(OSError):
        path.with_suffix(".new").write_text(json.dumps(content))
        path.with_suffix(".new").replace(path)


def transfers_status(settings: Settings, lake: Lake) -> dict[str, Any] | None:
    """Transfers by what became of them, and the validator's answers; None while there are no transfers.

    Keys: `validator` (whether FRAUD_VALIDATOR_URL is set), `transfers`, `unidentified`, `judged`, `refused`, `pending`,
    and `at`, `problem`, `failures` (number by kind) of the process that judged last.
    """
    if not lake.exists(*TRANSFERS):
        return None
    transfers = scan(lake.open(*TRANSFERS)).select("transaction_id", "evaluation")
    outcomes = pl.LazyFrame(schema={"transaction_id": pl.String(), "outcome": pl.String()})
    if lake.exists(*JUDGEMENTS):
        outcomes = scan(lake.open(*JUDGEMENTS)).select("transaction_id", "outcome")
    unidentified = pl.col("evaluation") == UNIDENTIFIED
    joined = transfers.join(outcomes, on="transaction_id", how="left")
    counts = joined.select(
        pl.len().alias("transfers"),
        unidentified.sum().alias("unidentified"),
        (unidentified & (pl.col("outcome") == "judged")).sum().alias("judged"),
        (unidentified & (pl.col("outcome") == "refused")).sum().alias("refused"),
        (unidentified & pl.col("outcome").is_null()).sum().alias("pending"),
    ).collect()
    state: dict[str, Any] = {"at": None, "problem": None, "failures": {}}
    with suppress(OSError, ValueError):
        state |= json.loads((settings.work_dir / _FILE).read_text())
    return {"validator": settings.validator_url is not None, **counts.to_dicts()[0], **state}
