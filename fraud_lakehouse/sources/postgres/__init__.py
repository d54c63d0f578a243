"""PostgreSQL: snapshots and logical replication of one database."""
