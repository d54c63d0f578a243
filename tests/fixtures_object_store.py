"""The S3-compatible object store of the tests: one server a session, a lake of its own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.seaweedfs import SeaweedFS

BUCKET = "lakes"


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFS]:
    """The running server, with a bucket."""
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-seaweedfs-"))
    server = SeaweedFS(home)
    try:
        server.start()
        server.create_bucket(BUCKET)
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def remote_lake(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a lake that is not there yet; processes of the test find the server by its environment."""
    for name, value in seaweedfs.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid4().hex[:12]}/lake"
