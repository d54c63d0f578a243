"""Publishes feature rows to Kafka topics, each exactly once for a read_committed consumer."""
