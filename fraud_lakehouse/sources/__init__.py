"""Where rows come from. Reads sources and decodes their rows; writes nothing to the lake."""
