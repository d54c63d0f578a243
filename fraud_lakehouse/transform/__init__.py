"""3: dbt in a warm process. DuckDB in memory computes, Delta stores; no Dagster here."""
