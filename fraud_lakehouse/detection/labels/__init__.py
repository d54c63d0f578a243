"""`silver/labels`: every version of every label, with the time it became known.

What belongs here: reading labels from streams, declared tables and files, and appending them exactly once. What does
not: features over labels (dbt models) and training (detection/model).
"""

from fraud_lakehouse.detection.labels.files import Imported, import_labels
from fraud_lakehouse.detection.labels.table import LABELS, SCHEMA, LabelTable, label_counts
from fraud_lakehouse.detection.labels.writer import LabelWriter

__all__ = ["LABELS", "SCHEMA", "Imported", "LabelTable", "LabelWriter", "import_labels", "label_counts"]
