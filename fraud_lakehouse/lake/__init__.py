"""2: land micro-batches exactly once in Delta, and keep the tables in good shape. No Dagster, no dbt here."""
