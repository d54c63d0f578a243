"""Delivery of recorded alerts: outbox, messages, destinations. The rules themselves are dbt models."""
