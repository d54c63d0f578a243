"""4: deliver recorded alerts and judge them and the tables they rest on. No Dagster here; the rules are dbt models."""
