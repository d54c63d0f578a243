"""What can be wrong with a PostgreSQL source, one error each. No message ever holds a password."""

from __future__ import annotations

from fraud_lakehouse.errors import GapError, SourceError


class PostgresUnreachableError(SourceError):
    """No connection: wrong host or port, server down, no route, or it does not admit us at all."""


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


class SourceSchemaError(SourceError):
    """A column changed its type in a way that the rows before and after do not share a type."""


class SlotLostError(GapError):
    """The slot is gone or was invalidated: the changes since our position cannot be had any more."""


class SlotAheadError(GapError):
    """The slot was acknowledged past our position: the changes between are gone."""


class SourceIdentityError(GapError):
    """The server is not the one the lake was filled from, or it was set back to an earlier state."""


class TableWithoutPositionError(GapError):
    """The log has changes of a captured table whose snapshot was never landed."""
