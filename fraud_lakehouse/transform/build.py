"""Builds a selection of models in order, then runs its tests. A failure also skips the models that depend on it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from graphlib import TopologicalSorter

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.transform.build_result import NodeResult
from fraud_lakehouse.transform.compiled import CompiledProject, Model, Test
from fraud_lakehouse.transform.executor import Executor
from fraud_lakehouse.transform.writer import Commit

_ATTEMPTS = 3


def build_models(
    executor: Executor,
    project: CompiledProject,
    models: Sequence[Model],
    *,
    full_refresh: bool = False,
    left_out: Collection[str] = (),
    threads: int = 1,
) -> list[NodeResult]:
    """Build models, each after those it reads. A failing model is a result, not an exception.

    A model of the fast path is built even if some of its upstreams failed: it reads the others' new rows, and its
    position in the failed upstream stays. Any other model is skipped if an upstream failed.

    Args:
        models: in the project's order.
        left_out: unique ids of models that failed before. They are not built, nor are models that read only them.
        threads: how many models that do not read each other are built at once. Each holds its own rows in memory.
    """
    results: dict[str, NodeResult] = {}
    absent = unbuildable(project, left_out)
    chosen = {model.unique_id: model for model in models if model.unique_id not in absent}
    order = TopologicalSorter({model.unique_id: model.parents for model in project.models})
    order.prepare()
    building: dict[Future[NodeResult], str] = {}
    with ThreadPoolExecutor(threads, "build") as pool:
        while order.is_active():
            for unique_id in order.get_ready():
                model = chosen.get(unique_id)
                failed = {unique_id for unique_id, result in results.items() if not result.ok}
                if model is not None and _waits(model, failed, has_any=not model.is_fast_path or full_refresh):
                    results[unique_id] = _result(model, "skipped")
                elif model is not None and model.is_stored:
                    building[pool.submit(_build, executor, model, full_refresh=full_refresh)] = unique_id
                    continue
                elif model is not None:
                    results[unique_id] = _result(model, "success")
                order.done(unique_id)
            for built in wait(building, return_when=FIRST_COMPLETED).done:
                unique_id = building.pop(built)
                results[unique_id] = built.result()
                order.done(unique_id)
    return [_with_sources(project, results[model.unique_id]) for model in models if model.unique_id in results]


def run_tests(executor: Executor, tests: Iterable[Test]) -> list[NodeResult]:
    """Run data tests. A test that cannot run counts as an error."""
    return [_test(executor, test) for test in tests]


def unbuildable(project: CompiledProject, failed: Collection[str]) -> set[str]:
    """The failed models by unique id, and the models that read only such models."""
    found = set(failed)
    for model in project.models:
        if model.parents and found.issuperset(model.parents):
            found.add(model.unique_id)
    return found


def _waits(model: Model, failed: Collection[str], *, has_any: bool) -> bool:
    parents = set(model.parents)
    return bool(parents & set(failed)) if has_any else bool(parents) and parents.issubset(failed)


def _build(executor: Executor, model: Model, *, full_refresh: bool) -> NodeResult:
    """Build one stored model."""
    began = time.monotonic()
    try:
        commit = _committed(executor, model, full_refresh=full_refresh)
    except Exception as error:  # noqa: BLE001  whatever it is, it is this model's
        return replace(_result(model, "error", began), message=str(error))
    rows, version = (commit.rows, commit.version) if commit is not None else (0, None)
    return replace(_result(model, "success", began), rows=rows, version=version)


def _committed(executor: Executor, model: Model, *, full_refresh: bool) -> Commit | None:
    """Build a model; after a commit conflict, build it again from the new state. Writers may be on other machines.

    Raises:
        ConcurrentWriterError: every attempt met a conflict; the next build continues.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(ConcurrentWriterError):
            return executor.build(model, full_refresh=full_refresh)
    return executor.build(model, full_refresh=full_refresh)


def _test(executor: Executor, test: Test) -> NodeResult:
    began = time.monotonic()
    result = NodeResult(test.unique_id, test.name, "test", "pass", 0.0)
    try:
        failures, fails, warns = executor.failing_rows(test)
    except Exception as error:  # noqa: BLE001  whatever it is, it is this test's
        return replace(result, status="error", seconds=time.monotonic() - began, message=str(error))
    is_error = fails and test.severity == "ERROR"
    status = "fail" if is_error else "warn" if warns or fails else "pass"
    condition = test.error_if if is_error else test.warn_if
    message = "" if status == "pass" else f"Got {failures} results, configured to {status} if {condition}"
    return replace(result, status=status, seconds=time.monotonic() - began, failures=failures, message=message)


def _result(model: Model, status: str, began: float | None = None) -> NodeResult:
    seconds = 0.0 if began is None else time.monotonic() - began
    return NodeResult(model.unique_id, model.name, "model", status, seconds)


def _with_sources(project: CompiledProject, result: NodeResult) -> NodeResult:
    """Add the bronze tables whose rows wait for a failed model."""
    if result.ok:
        return result
    return replace(result, sources=sorted(t for layer, t in project.tables_of(result.unique_id) if layer == "bronze"))
