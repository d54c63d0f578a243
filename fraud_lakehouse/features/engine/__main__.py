"""Compile the kernels in advance, so that no process has to wait: `python -m fraud_lakehouse.features.engine`.

It takes about twenty seconds of processor time; kernels that are already compiled are skipped.
"""

from __future__ import annotations

import pyarrow as pa

from fraud_lakehouse.features.engine.engine import FeatureEngine
from fraud_lakehouse.features.engine.feature import EARLIER, OF_TEXT, TOTALS, VALUES, EngineFeature


def main() -> None:
    """Use an engine of each kind, with every aggregate and both kinds of keys."""
    aggregates = ["percentile_90" if one == "percentile" else one for one in (*TOTALS, *VALUES, *EARLIER)]
    features = [
        EngineFeature(
            f"{entity}_{aggregate}_{is_text}",
            entity,
            aggregate,
            "text" if is_text else "number",
            None if aggregate in EARLIER else 60,
            current=aggregate not in EARLIER,
            is_text=is_text,
        )
        for entity in ("whole", "word")
        for is_text in (False, True)
        for aggregate in aggregates
        if not is_text or aggregate in OF_TEXT
    ]
    features.append(EngineFeature("ever", "whole", "stddev", "number", None, current=False))
    rows = pa.table(
        {
            "_at": pa.array([0, 1, None], pa.int64()),
            "key_whole": pa.array([1, 1, 2], pa.int64()),
            "key_word": pa.array(["a", "a", None], pa.string()),
            "units_of_number": pa.array([1, 2, None], pa.int64()),
            "value_number": pa.array([1.0, 2.0, None], pa.float64()),
            "value_text": pa.array(["x", "y", None], pa.string()),
        }
    )
    weights = pa.array([1, 1, -1], pa.int8())
    events = FeatureEngine(features, "events", {"number": 1})
    changes = FeatureEngine(features, "changes", {"number": 1})
    for engine, batch in ((events, rows), (changes, rows.append_column("_weight", weights))):
        engine.load(batch)
        engine.add(batch)
        engine.evict(1)


if __name__ == "__main__":
    main()
