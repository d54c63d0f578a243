"""A fraud lakehouse: change data and card streams land exactly once in Delta, dbt turns them into alerts."""
