"""An S3-compatible object store, as folders to list and as a file system for DuckDB. Knows no table.

Connection and credentials are the `AWS_*` variables that the Delta library and polars read themselves. DuckDB reads
through pyarrow's S3 client: its own is an extension that it would download at run time.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from pyarrow import fs

from fraud_lakehouse.errors import LakeError, SettingsError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SCHEME = "s3"


def subfolders(uri: str) -> list[str]:
    """Names of the folders directly below a URI, sorted; empty if there are none.

    Raises:
        LakeError: the object store cannot be read.
    """
    try:
        found = _client(uri).get_file_info(fs.FileSelector(_path(uri), allow_not_found=True))
    except OSError as error:
        raise LakeError(f"{uri} cannot be listed: {error}", _FIX) from error
    return sorted(entry.base_name for entry in found if entry.type == fs.FileType.Directory)


def check_writable(uri: str, name: str) -> None:
    """Verify that an object can be written below a URI.

    Raises:
        LakeError: no object can be written there.
    """
    client, path = _client(uri), f"{_path(uri)}/{name}"
    try:
        with client.open_output_stream(path) as stream:
            stream.write(b"")
        client.delete_file(path)
    except OSError as error:
        raise LakeError(f"the lake at {uri} cannot be written: {error}", _FIX) from error


def register(connection: DuckDBPyConnection, location: str) -> None:
    """Let a DuckDB connection read URIs of an object store; does nothing for a local path."""
    if "://" not in location:
        return
    from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]

    class _Objects(ArrowFSWrapper):  # type: ignore[misc]
        protocol = SCHEME

    connection.register_filesystem(_Objects(_client(location)))


_FIX = "check FRAUD_LAKE, AWS_ENDPOINT_URL, AWS_REGION and the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"


def _path(uri: str) -> str:
    return uri.partition("://")[2].rstrip("/")


def _client(uri: str) -> fs.FileSystem:
    scheme = uri.partition("://")[0]
    if scheme != SCHEME:
        raise SettingsError(
            f"the lake {uri} lies in a store of kind {scheme!r}, which is not supported",
            f"point FRAUD_LAKE at a folder or at {SCHEME}://bucket/prefix",
        )
    return _s3(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


@lru_cache(maxsize=1)
def _s3(endpoint: str | None) -> fs.S3FileSystem:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(endpoint_override=endpoint, region=region)
