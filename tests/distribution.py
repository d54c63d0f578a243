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
ON_ONE_WORKER = {
    "tests/integration/test_apache_kafka.py": "Apache Kafka",  # one Java server instead of two
    "tests/soak/test_apache_faults.py": "Apache Kafka",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return ON_ONE_WORKER.get(file, file)

    config.option.loadscopereorder = False  # it would go by the number of tests
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Bring the long files to the front in the workers; a run in one process keeps its order."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    folder = nodeid.partition("::")[0].rpartition("/")[0]
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)
