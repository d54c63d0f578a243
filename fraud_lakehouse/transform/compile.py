"""Compile a prepared project in a separate process: dbt compiles each model twice, and every SQL is checked.

`python -m fraud_lakehouse.transform.compile FOLDER` writes `target/manifest.json` and `compiled.json` to the folder.
If dbt rejects the project or a model cannot run, it exits with code 1; its last line of output is the message.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.definitions import Definitions
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.compiled import HOT, CompiledProject, Input, Model, Source, Test, Variant, named_tables
from fraud_lakehouse.transform.executor import Executor
from fraud_lakehouse.transform.inputs import NewRows
from fraud_lakehouse.transform.table_cache import Key
from fraud_lakehouse.transform.variables import catalogue_of

STORED = "delta"
"""The materialization of a model that is a table."""

QUIET = ["--log-level", "none", "--log-level-file", "none", "--no-send-anonymous-usage-stats"]
_VARIANTS = {
    "full": ["--full-refresh", "--exclude", "resource_type:unit_test"],
    "incremental": ["--exclude", "resource_type:unit_test", "resource_type:test"],
}
"""The nodes that dbt compiles in each variant; tests only once."""
_STRATEGIES = ("overwrite", "append", "merge")
_FAILED = 1


def compile_project(folder: Path) -> None:
    """Compile and check the project in a folder. A separate process does it: dbt takes 200 MB that are never freed.

    Raises:
        TransformError: dbt rejects the project, or a model's SQL cannot run; names the model and the reason.
        OSError: the disk is full.
    """
    command = [sys.executable, "-m", "fraud_lakehouse.transform.compile", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    lines = done.stdout.splitlines()
    if done.returncode == _FAILED and lines and lines[-1].startswith("{"):
        reported = json.loads(lines[-1])
        if "errno" in reported:
            raise OSError(reported["errno"], reported["problem"])
        raise TransformError(reported["problem"], reported["fix"])
    raise TransformError(
        f"compiling the dbt project failed with code {done.returncode}: {done.stderr[-2000:]}", "see the message"
    )


def main(folder: Path) -> None:
    """Compile the folder; print an error as JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr  # dbt prints to stdout
    code = 0
    try:
        project = _compiled(folder)
        check(project)
        project.save(folder / "compiled.json")
    except TransformError as error:
        print(json.dumps({"problem": error.problem, "fix": error.fix}), file=answers)
        code = _FAILED
    except OSError as error:
        print(json.dumps({"problem": error.strerror, "errno": error.errno}), file=answers)
        code = _FAILED
    answers.flush()
    os._exit(code)  # otherwise threads left by dbt abort the process


def check(project: CompiledProject) -> None:
    """Check that each handwritten model, and what it reads, runs on tables with the declared columns.

    All models are checked to read only what they may.

    Raises:
        TransformError: one does not; names the model and what it reads.
    """
    for model in project.models:
        _check_reads(project, model)
    read = {parent for model in project.models if not model.is_generated for parent in model.parents}
    with TemporaryDirectory(prefix="fraud-lakehouse-check-") as empty, closing(Executor(Lake.at(empty))) as executor:
        executor.use(project)
        for model in project.models:
            if not model.is_generated or model.unique_id in read:
                executor.check(model)


def _check_reads(project: CompiledProject, model: Model) -> None:
    """Check that new rows are read only from append-only tables, and that the fast path reads no table as a whole."""
    if model.is_stored and model.strategy not in _STRATEGIES:
        raise TransformError(
            f"model {model.name} has the unknown strategy {model.strategy!r}", f"use one of {', '.join(_STRATEGIES)}"
        )
    stored = {other.key: other for other in project.models if other.is_stored}
    for new in (NewRows.of(one.call) for one in model.incremental.inputs if one.kind == "new_rows"):
        if new.upstream in stored and stored[new.upstream].strategy != "append":
            raise TransformError(
                f"model {model.name} reads new_rows of {'/'.join(new.upstream)}, whose rows are updated and deleted"
                " later: what the model has read would become wrong",
                f"read new_rows of an append-only table, or {'/'.join(new.upstream)} as a whole",
            )
    for table in model.incremental.tables if model.is_fast_path else ():
        if table in stored and table != model.key:
            raise TransformError(
                f"model {model.name} is part of the fast path and reads {'/'.join(table)} as a whole, which"
                + (
                    " costs more with every row" if stored[table].is_fast_path else " is built later and would be stale"
                ),
                "read new_rows, seen_rows, seen_totals or seen_by_key of a table of the fast path or of bronze;"
                f" or remove the tag {HOT} from {model.name}",
            )


def _compiled(folder: Path) -> CompiledProject:
    from dbt.cli.main import dbtRunner  # 4 s of imports, only for callers that need it

    target = folder / "target"
    runner, nodes, calls = dbtRunner(), {}, {}
    with TemporaryDirectory() as profiles:
        recorded = _write_profile(Path(profiles))  # one for both: another profile would make dbt parse everything again
        folders = {"--project-dir": folder, "--profiles-dir": profiles, "--target-path": target}
        arguments = [str(part) for option in folders.items() for part in option]
        for variant, options in _VARIANTS.items():
            result: Any = runner.invoke([*QUIET, "compile", *options, *arguments])
            _raise_for(result)
            nodes[variant] = {one.node.unique_id: one.node for one in result.result.results}
            calls[variant] = _calls(recorded)
            recorded.unlink(missing_ok=True)
    manifest = json.loads((target / "manifest.json").read_text())
    variables = yaml.safe_load((folder / "dbt_project.yml").read_text()).get("vars") or {}
    return _project(manifest, nodes, calls, variables)


def _write_profile(folder: Path) -> Path:
    """Write a profile to a folder; returns the file that the recorder writes inputs to."""
    calls = folder / "calls"
    plugin = {
        "module": "fraud_lakehouse.transform.recorder",
        "alias": STORED,
        "config": {"file": str(calls)},
    }
    output = {"type": "duckdb", "path": ":memory:", "schema": "main", "threads": 1, "plugins": [plugin]}
    profile = {"fraud_lakehouse": {"target": "lake", "outputs": {"lake": output}}}
    (folder / "profiles.yml").write_text(yaml.safe_dump(profile))
    return calls


def _raise_for(result: Any) -> None:
    """Raise the error that dbt reported.

    Raises:
        TransformError, OSError: dbt's error.
    """
    if isinstance(result.exception, OSError):  # a problem of the disk, not of the project
        raise result.exception
    if result.exception is not None:
        raise TransformError(f"dbt rejects the project: {result.exception}", "correct the model it names")
    for one in result.result.results if result.result else []:
        if str(one.status) not in ("success", "pass"):
            raise TransformError(f"dbt cannot compile {one.node.name}: {one.message}", f"correct {one.node.name}")


def _calls(file: Path) -> dict[str, list[Input]]:
    """The recorded inputs by the model's unique id."""
    found: dict[str, list[Input]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        reported = json.loads(line)
        node, kind = reported["call"].pop("node"), reported["kind"]
        if kind == "plan":
            if "stored" not in reported["call"]:
                continue
            reported = {"kind": "stored", "call": reported["call"]["stored"]}
        one = Input(
            reported["kind"], {name: value for name, value in reported["call"].items() if name not in _NOT_OF_INPUT}
        )
        if one not in found.setdefault(node, []):
            found[node].append(one)
    return found


_READ = ("seen", "index", "value", "scored", "fired")
"""Kinds of inputs whose SQL reads tables when the model runs."""

_NOT_OF_INPUT = ("parents", "full_refresh", "keep_rows", "only_compiled", "answer")


def _project(
    manifest: Mapping[str, Any],
    nodes: Mapping[str, Mapping[str, Any]],
    calls: Mapping[str, Mapping[str, Sequence[Input]]],
    variables: Mapping[str, Any],
) -> CompiledProject:
    described = manifest["nodes"]
    stored = {_table(node) for node in described.values() if node["config"].get("materialized") == STORED}
    known = stored | {_table(source) for source in manifest["sources"].values()}
    reading = _Reading(described, nodes, calls, known, variables.get("feature_definitions", {}))
    models = [
        reading.model(described[node]) for node in _ordered(described, nodes["full"]) if _is(described[node], "model")
    ]
    tests = [reading.test(described[node]) for node in nodes["full"] if _is(described[node], "test")]
    captured = variables.get("captured_columns", {})  # of captured tables with shipped models
    sources = [
        Source(
            node["unique_id"],
            _table(node),
            captured.get(_table(node)[1]) or _columns(node),
            "_commit" in node["columns"],
        )
        for node in manifest["sources"].values()
    ]
    return CompiledProject(models, tests, sources, catalogue_of(variables))


class _Reading:
    """Combines dbt's manifest, its two compilations and the recorded macro calls."""

    def __init__(
        self,
        described: Mapping[str, Any],
        nodes: Mapping[str, Mapping[str, Any]],
        calls: Mapping[str, Mapping[str, Sequence[Input]]],
        known: Collection[Key],
        definitions: Definitions,
    ) -> None:
        self._described = described
        self._nodes = nodes
        self._calls = calls
        self._known = known
        self._definitions = definitions

    def model(self, node: Mapping[str, Any]) -> Model:
        """The compiled model of a node."""
        config, key = node["config"], node["config"].get("unique_key") or []
        return Model(
            unique_id=node["unique_id"],
            name=node["name"],
            key=_table(node),
            parents=node["depends_on"]["nodes"],
            tags=node["tags"],
            is_stored=config["materialized"] == STORED,
            strategy=config.get("strategy", "overwrite"),
            unique_key=[key] if isinstance(key, str) else key,
            columns=_columns(node),
            has_source_types=bool(config.get("source_types")),
            keeps_rows=config.get("full_refresh") is False,
            definitions=self._definitions.get(node["name"], {}),
            is_generated="captured" in node["fqn"],
            full=self._variant(node, "full"),
            incremental=self._variant(node, "incremental"),
        )

    def test(self, node: Mapping[str, Any]) -> Test:
        """The compiled data test of a node."""
        config, unique_id = node["config"], node["unique_id"]
        sql = self._nodes["full"][unique_id].compiled_code
        limit = config.get("limit")
        return Test(
            unique_id=unique_id,
            name=node["name"],
            parents=node["depends_on"]["nodes"],
            sql=f"{sql}\nlimit {limit}" if limit else sql,
            tables=self._tables([sql], node),
            severity=str(config["severity"]).upper(),
            calculation=config["fail_calc"],
            error_if=config["error_if"],
            warn_if=config["warn_if"],
        )

    def _variant(self, node: Mapping[str, Any], variant: str) -> Variant:
        unique_id = node["unique_id"]
        sql, own = self._nodes[variant][unique_id].compiled_code, self._calls[variant].get(unique_id, [])
        texts = [sql, *(text for one in own if one.kind in _READ for text in _texts(one.call))]
        below = [one for view in self._views(node) for one in self._variant(view, "incremental").inputs]
        return Variant(sql, [*below, *own], self._tables(texts, node))

    def _tables(self, texts: Iterable[str], node: Mapping[str, Any]) -> list[Key]:
        """The stored tables that the texts name, and those read by the views below the node."""
        found = {key for text in texts for key in named_tables(text) if key in self._known}
        for view in self._views(node):
            found.update(self._variant(view, "incremental").tables)
        return sorted(found)

    def _views(self, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The views that a node reads."""
        below = [self._described[parent] for parent in node["depends_on"]["nodes"] if parent in self._described]
        return [one for one in below if _is(one, "model") and one["config"]["materialized"] != STORED]


def _texts(value: Any) -> Iterable[str]:
    """All strings within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _texts(part)


def _ordered(described: Mapping[str, Any], nodes: Collection[str]) -> list[str]:
    """The nodes in topological order, otherwise by name as in dbt."""
    found: dict[str, None] = {}

    def add(node: str) -> None:
        if node in found or node not in nodes:
            return
        for parent in sorted(described[node]["depends_on"]["nodes"]):
            add(parent)
        found[node] = None

    for node in sorted(nodes):
        add(node)
    return list(found)


def _is(node: Mapping[str, Any], kind: str) -> bool:
    return bool(node["resource_type"] == kind)


def _table(node: Mapping[str, Any]) -> Key:
    return node["schema"], node.get("identifier") or node.get("alias") or node["name"]


def _columns(node: Mapping[str, Any]) -> dict[str, str]:
    return {column["name"]: column.get("data_type") or "" for column in node["columns"].values()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
