"""Errors of a PostgreSQL source, one class for each cause. No message contains a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from polars.exceptions import PanicException

from fraud_lakehouse.errors import GapError, LakehouseError, SourceError


class PostgresUnreachableError(SourceError):
    """No connection: wrong host or port, server down, no route, or not allowed by pg_hba.conf."""


class PostgresStartingError(PostgresUnreachableError):
    """The server is starting up or shutting down. Temporary."""


class PostgresTlsError(PostgresUnreachableError):
    """No TLS connection: a certificate does not match, or one side does not support TLS."""


class PostgresPoolerError(SourceError):
    """A connection pooler is between us and the server."""


class PostgresStandbyError(SourceError):
    """The server is a standby, which does not have our slot."""


class PostgresReadOnlyError(SourceError):
    """This user's sessions are read-only, but a publication has to be created or altered."""


class PostgresLoginError(SourceError):
    """The server rejects the user or the password."""


class DatabaseMissingError(SourceError):
    """The server has no such database."""


class WalLevelError(SourceError):
    """The server's wal_level (or max_wal_senders) does not allow logical decoding."""


class ReplicationRightError(SourceError):
    """The user lacks REPLICATION, or a right on the tables or the publication."""


class SourceTableError(SourceError):
    """A configured table is missing, or a table cannot be captured (no key, no replica identity)."""


class SlotInUseError(SourceError):
    """Another process reads our replication slot."""


class SourceBusyError(SourceError):
    """Another session's open transaction or lock is in the way. Temporary."""


class ServerLimitError(SourceBusyError):
    """The server has no connection, replication connection, replication slot or disk space left; retried."""


class TableFailedError(SourceError):
    """One table cannot be locked, published, read, decoded or written; the others can.

    Args:
        name: its bronze table.
        oid: the source's.
    """

    def __init__(self, name: str, oid: int, problem: str, fix: str = "") -> None:
        super().__init__(problem, fix)
        self.name = name
        self.oid = oid


class FieldTooLargeError(TableFailedError):
    """A field is larger than FRAUD_MAX_FIELD_BYTES."""


class SlotForeignError(SourceError):
    """A slot of the configured name exists, but this lake did not create it."""


class SlotLostError(GapError):
    """The slot is gone or was invalidated: the changes since our position are lost."""


class SlotAheadError(GapError):
    """The slot was acknowledged past our position: the changes between them are lost."""


class SlotRenamedError(GapError):
    """The settings name another slot of the same server than the one the lake was filled through."""


class TimelineError(GapError):
    """The server's timeline branched off before our position: the lake has changes that it never had."""


class TimelineChangedError(SourceError):
    """The server's timeline changed (a standby was promoted): all checks run again."""


class SourceIdentityError(GapError):
    """The server is not the one the lake was filled from, or it was restored to an earlier state."""


class TableWithoutPositionError(GapError):
    """The log has changes of a captured table whose snapshot was never ingested."""


@contextmanager
def one_table(name: str, oid: int, task: str) -> Iterator[None]:
    """Wraps work on one table: an error that concerns only this table becomes TableFailedError.

    Args:
        name: its bronze table.
        oid: the source's.
        task: what is being done, for the message ("reading public.users").

    Raises:
        TableFailedError: only this table is affected. Other errors pass through.
    """
    try:
        yield
    except (TableFailedError, PostgresUnreachableError, GapError):
        raise
    except SourceError as error:
        raise TableFailedError(name, oid, error.problem, error.fix) from error
    except (LakehouseError, OSError):
        raise
    except (Exception, PanicException) as error:
        fix = f"correct the table; it is tried again, at once by `fraud-lakehouse resync {name}`"
        raise TableFailedError(name, oid, f"{task} failed: {type(error).__name__}: {error}", fix) from error
