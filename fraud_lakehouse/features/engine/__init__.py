"""The incremental feature engine: features of each new row as of its arrival, from arrays kept in memory.

A pure library over Arrow tables; it reads no lake and runs no SQL. Creating an engine imports Numba.
"""

from fraud_lakehouse.features.engine.engine import FeatureEngine
from fraud_lakehouse.features.engine.feature import EngineFeature

__all__ = ["EngineFeature", "FeatureEngine"]
