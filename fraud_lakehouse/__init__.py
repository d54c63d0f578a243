"""A fraud lakehouse: change data and card streams are ingested exactly once into Delta, dbt turns them into alerts."""
