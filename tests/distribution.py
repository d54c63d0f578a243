"""How the tests are shared out where `pytest --numprocesses` runs several workers: a file to one worker.

A file's tests share servers, lakes and warm dbt projects; a worker has a session, and so servers, of its own. Nothing
else is shared but the cache of parsed dbt projects, which is made for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

LONGEST_FIRST = ("tests/soak", "tests/integration", "tests/dbt", "tests/definitions", "tests/unit")
"""The many short files of tests/unit come last, so that the workers end together."""
JAVA = {
    "apache_kafka": frozenset(
        {
            "tests/integration/test_apache_kafka.py",
            "tests/integration/test_live_gap.py",
            "tests/integration/test_publish.py",
            "tests/integration/test_published_features.py",
            "tests/soak/test_apache_faults.py",
        }
    ),
    "spark": frozenset(
        f"tests/dbt/{name}.py"
        for name in ("test_currencies", "test_models_on_spark", "test_rules_on_spark", "test_windows_on_spark")
    ),
}
"""By mark. Each on one worker, which so has the only such server; first of all, since they are the longest together."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = _file(nodeid)
            return next((mark for mark, files in JAVA.items() if file in files), file)

    config.option.loadscopereorder = False  # it would go by the number of tests
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Bring the long files to the front in the workers; a run in one process keeps its order.

    Raises:
        pytest.UsageError: a file with tests of such a server is not known as one.
    """
    for mark, files in JAVA.items():
        marked = {_file(item.nodeid) for item in items if item.get_closest_marker(mark)}
        if unknown := marked - files:
            raise pytest.UsageError(
                f"{', '.join(sorted(unknown))} would start a server of its own: add it to {__file__}"
            )
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(_file(item.nodeid)))


def _rank(file: str) -> int:
    folder = file.rpartition("/")[0]
    if any(file in files for files in JAVA.values()):
        return -1
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
