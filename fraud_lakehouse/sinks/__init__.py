"""Sinks: rows of the lake's tables to other systems, exactly once if the target allows it."""
