"""The demo: embedded PostgreSQL and Kafka, their generators, start and stop. Production code never imports it."""
