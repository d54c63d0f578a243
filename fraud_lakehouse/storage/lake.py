"""The lake: where each layer's Delta tables are and how they are opened. Knows no schema and writes no row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.storage import object_store
from fraud_lakehouse.storage.schemas import frame_schema

LAYERS = ("bronze", "silver", "gold", "control")


def table_root(table: DeltaTable) -> str:
    """Path (local lakes) or URI of a table; delta-rs percent-encodes the path of a local one."""
    uri = table.table_uri.rstrip("/")
    if uri.startswith("file://"):
        return unquote(uri.removeprefix("file://"))
    return uri if "://" in uri else unquote(uri)


def file_path(table: DeltaTable, path: str) -> str:
    """Path (local lakes) or URI of a data file as the log names it."""
    return f"{table_root(table)}/{unquote(path)}"


def data_files(table: DeltaTable) -> list[str]:
    """Paths (local lakes) or URIs of the data files of the handle's version, readable by any Parquet reader."""
    return [uri if _is_remote(uri) else unquote(uri.removeprefix("file://")) for uri in table.file_uris()]


def scan(table: DeltaTable) -> pl.LazyFrame:
    """The rows of the handle's version, including paths that delta-rs encodes and polars cannot read."""
    if "%" not in table.table_uri or _is_remote(table.table_uri):
        return pl.scan_delta(table)
    return scan_files(table, data_files(table))


def scan_files(table: DeltaTable, files: Sequence[str]) -> pl.LazyFrame:
    """The rows of a selection of a table's files (paths or URIs), with the table's columns."""
    schema = frame_schema(table.schema())
    if not files:
        return pl.LazyFrame(schema=schema)
    return pl.scan_parquet(
        list(files),
        schema=schema,
        glob=False,
        hive_partitioning=False,
        missing_columns="insert",
        extra_columns="ignore",
    )


def _is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


@dataclass(frozen=True)
class Lake:
    """A root with `<layer>/<table>` Delta tables below it.

    Args:
        root: absolute path of a folder, or a URI such as s3://bucket/prefix.
    """

    root: str

    @staticmethod
    def at(location: str | Path) -> Lake:
        """The lake at a path (made absolute) or URI.

        Raises:
            LakeError: the path cannot contain Delta tables.
        """
        text = str(location)
        if "[" in text or "]" in text:
            raise LakeError(
                f"the lake's path {text} contains a square bracket, which the Delta library cannot open",
                "choose another folder for FRAUD_LAKE",
            )
        if "://" in text and not text.startswith("file://"):
            return Lake(text.rstrip("/"))
        return Lake(str(Path(text.removeprefix("file://")).resolve()))

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return "://" not in self.root

    def uri(self, layer: str, table: str) -> str:
        """Path or URI of a table."""
        return f"{self.root}/{layer}/{table}"

    def exists(self, layer: str, table: str) -> bool:
        """Whether the table has at least one committed version."""
        return bool(DeltaTable.is_deltatable(self.uri(layer, table)))

    def open(self, layer: str, table: str) -> DeltaTable:
        """A handle at the newest version.

        Raises:
            LakeError: there is no such table.
        """
        try:
            return DeltaTable(self.uri(layer, table))
        except TableNotFoundError:
            raise LakeError(
                f"there is no Delta table {layer}/{table} in the lake at {self.root}",
                "check FRAUD_LAKE, or run `fraud-lakehouse catch-up` to build it",
            ) from None

    def tables(self, layer: str) -> list[str]:
        """Names of a layer's tables, sorted.

        Raises:
            LakeError: the object store of a remote lake cannot be read.
        """
        if not self.is_local:
            return object_store.subfolders(f"{self.root}/{layer}")
        folder = f"{self.root}/{layer}"
        if not os.path.isdir(folder):
            return []
        return sorted(name for name in os.listdir(folder) if os.path.isdir(f"{folder}/{name}/_delta_log"))

    def check_writable(self) -> None:
        """Create the root and verify that a file can be written there.

        Raises:
            LakeError: the root cannot be written.
        """
        name = f".writable-{os.getpid()}"
        if not self.is_local:
            object_store.check_writable(self.root, name)
            return
        probe = Path(self.root) / name
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise LakeError(
                f"the lake at {self.root} cannot be written: {error.strerror or error}",
                "point FRAUD_LAKE at a folder this user may write, or correct its permissions",
            ) from None
