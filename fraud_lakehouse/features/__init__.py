"""What features there are and what they mean: streams, the catalogue of `pipeline/features.yml`, and label files."""
