"""Threads that dbt leaves running: a command that ends by an exception never closes its pool of four."""

from __future__ import annotations

from multiprocessing.pool import ThreadPool


def end_pools(error: BaseException | None) -> None:
    """End the thread pools of the calls that `error` came through; nothing runs in them any more."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        pool = trace.tb_frame.f_locals.get("pool")
        if isinstance(pool, ThreadPool):
            pool.terminate()
            pool.join()
        trace = trace.tb_next
