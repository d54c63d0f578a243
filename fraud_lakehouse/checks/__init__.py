"""Judgements of tables and sources: contracts, freshness, lag, rates, and the status of all of it. No Dagster here."""
