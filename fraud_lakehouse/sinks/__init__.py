"""Where results go: rows of the lake's tables to other systems, exactly once where the target allows it."""
