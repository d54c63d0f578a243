"""What can be wrong with a PostgreSQL source, one error each. No message ever holds a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from polars.exceptions import PanicException

from fraud_lakehouse.errors import GapError, LakehouseError, SourceError


class PostgresUnreachableError(SourceError):
    """No connection: wrong host or port, server down, no route, or it does not admit us at all."""


class PostgresStartingError(PostgresUnreachableError):
    """The server is starting up or shutting down: it will pass."""


class PostgresTlsError(PostgresUnreachableError):
    """No connection by TLS: a certificate does not fit, or one side does not want it."""


class PostgresPoolerError(SourceError):
    """A connection pooler stands between us and the server."""


class PostgresStandbyError(SourceError):
    """The server is a standby: it has no slot of ours."""


class PostgresReadOnlyError(SourceError):
    """The server lets this user's sessions write nothing, and a publication is to be made or changed."""


class PostgresLoginError(SourceError):
    """The server refuses the user or the password."""


class DatabaseMissingError(SourceError):
    """The server has no such database."""


class WalLevelError(SourceError):
    """The server does not write what logical decoding needs."""


class ReplicationRightError(SourceError):
    """The user lacks REPLICATION, or a right on the tables or the publication."""


class SourceTableError(SourceError):
    """A configured table is missing, or a table cannot be captured (no key, no replica identity)."""


class SlotInUseError(SourceError):
    """Another process reads our replication slot."""


class SourceBusyError(SourceError):
    """Somebody else's open transaction or lock is in the way; it will pass."""


class ServerLimitError(SourceBusyError):
    """The server has no connection, replication connection, replication slot or disk left; it is tried again."""


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
    """A slot of the configured name exists which this lake never created: another lake's, or an earlier one's."""


class SlotLostError(GapError):
    """The slot is gone or was invalidated: the changes since our position cannot be had any more."""


class SlotAheadError(GapError):
    """The slot was acknowledged past our position: the changes between are gone."""


class SlotRenamedError(GapError):
    """The settings name another slot than the one the lake was filled through, on the same server."""


class TimelineError(GapError):
    """The server's history left ours before our position: what the lake has beyond it never happened there."""


class TimelineChangedError(SourceError):
    """Another timeline answers than a moment ago (a standby was promoted): everything is checked anew."""


class SourceIdentityError(GapError):
    """The server is not the one the lake was filled from, or it was set back to an earlier state."""


class TableWithoutPositionError(GapError):
    """The log has changes of a captured table whose snapshot was never landed."""


@contextmanager
def one_table(name: str, oid: int, task: str) -> Iterator[None]:
    """Around work on one table: an error that says nothing of the others becomes TableFailedError.

    Args:
        name: its bronze table.
        oid: the source's.
        task: what is done, for people ("reading public.users").

    Raises:
        TableFailedError: this table alone is at fault. Otherwise as the block.
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
