"""3: compiles the dbt project and runs its models. DuckDB in memory computes, Delta stores; no Dagster here."""
