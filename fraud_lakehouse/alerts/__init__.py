"""Recorded alerts on their way to people: outbox, messages, delivery. The rules are dbt models."""
