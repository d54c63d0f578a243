"""A fraud lakehouse: change data and card streams land exactly once in Delta, dbt turns them into alerts."""

import os

# polars' allocator gives memory back to the system after half a second and gets it again, cleared page by page: 8 % of
# the processor time of landing a Kafka backlog. It reads this once, when polars is loaded; a value already set stays.
os.environ.setdefault("_RJEM_MALLOC_CONF", "background_thread:true,dirty_decay_ms:10000,muzzy_decay_ms:-1")
