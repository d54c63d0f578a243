"""Delta: the lake's tables, commits, rows since a position, locks, maintenance. Knows no source and no model."""
