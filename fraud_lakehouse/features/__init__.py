"""What features there are and what they mean: the catalogue of `dbt_project/features.yml`, and label files."""
