"""Real Apache Spark for the tests: one local session in a process of its own, in an environment of its own.

The environment is made once, with pip, under $XDG_CACHE_HOME (default ~/.cache)/fraud_lakehouse/spark/<version>; as it
is 430 MB, only where FRAUD_TEST_REQUIRE_SPARK=1 asks for it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.fetched import NotFetchedError, environment, is_fetched
from tests.optional import is_required

VERSION = "4.0.1"
_LOCK = """\
pyspark==4.0.1 --hash=sha256:9d1f22d994f60369228397e3479003ffe2dd736ba79165003246ff7bd48e2c73
py4j==0.10.9.9 --hash=sha256:c7c26e4158defb37b0bb124933163641a2ff6e3a3913f7811b0ddbe07ed61533
"""


class SparkMissingError(Exception):
    """Java or pyspark cannot be had here; says which and why."""


def interpreter() -> Path:
    """The Python that has pyspark; made when it is not there yet.

    Raises:
        SparkMissingError: no Java, not asked for, or pip could not fetch.
    """
    if shutil.which("java") is None:
        raise SparkMissingError("java is not installed")
    if not is_fetched("spark", VERSION) and not is_required("SPARK"):
        raise SparkMissingError("FRAUD_TEST_REQUIRE_SPARK=1 fetches it once (430 MB)")
    try:
        return environment("spark", VERSION, _LOCK)
    except NotFetchedError as error:
        raise SparkMissingError(str(error)) from None


class Spark:
    """One local session: the two ends of a pipe to `spark_session.py`.

    Raises:
        SparkMissingError: Java or pyspark are not to be had.
    """

    def __init__(self, home: Path) -> None:
        script = Path(__file__).with_name("spark_session.py")
        self._log = home / "spark.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [interpreter(), script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=home,
                text=True,
                start_new_session=True,
            )

    def view(self, name: str, rows: list[dict[str, Any]], schema: str) -> None:
        """A temporary view of rows; `schema` as Spark writes it (`k bigint, t timestamp_ntz`)."""
        values = [[row.get(column.split()[0]) for column in schema.split(", ")] for row in rows]
        self._ask({"view": name, "schema": schema, "rows": values})

    def files(self, name: str, files: list[str]) -> None:
        """A temporary view of Parquet files."""
        self._ask({"view": name, "files": files})

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query; what is not a JSON value comes as Python's text of it.

        Raises:
            AssertionError: Spark refuses it; with its message.
        """
        return list(self._ask({"sql": sql}))

    def close(self) -> None:
        """End the session."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"Spark ended: {self._log.read_text()[-2000:]}"
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["rows"]
