"""Kafka: records of one cluster's topics, read from positions of our own."""
