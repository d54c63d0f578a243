"""Features out again: rows of the `_versions` tables to Kafka, each exactly once for a `read_committed` consumer."""
