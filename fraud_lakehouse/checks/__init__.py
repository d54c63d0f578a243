"""Evaluates tables and sources: contracts, freshness, lag, rates, and overall status. No Dagster here."""
