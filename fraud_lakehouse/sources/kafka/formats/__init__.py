"""Formats of Kafka record values: bytes to typed columns."""
