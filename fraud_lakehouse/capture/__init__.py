"""Step 1 of the flow: get batches from the sources. Knows neither Delta nor dbt nor Dagster."""
