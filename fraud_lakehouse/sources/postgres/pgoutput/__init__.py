"""The wire format of PostgreSQL's logical replication plugin pgoutput, decoded in columns."""
