"""Acknowledge a position to the server, which may then discard its log up to there."""

from __future__ import annotations

import select
import struct
from contextlib import closing

from psycopg import errors, pq, sql

from fraud_lakehouse.sources.postgres.connection import PostgresConnector, end_copy, wait_results


def acknowledge(connector: PostgresConnector, slot: str, publications: str, lsn: int) -> None:
    """Confirm everything up to `lsn`: START_REPLICATION answered by one status message, so nothing is decoded.

    Args:
        publications: the publication's name in double quotes.

    Raises:
        psycopg.errors.ObjectInUse: another process uses the slot; psycopg.Error: by SQLSTATE.
    """
    # Each call opens a new connection: a second START_REPLICATION on the same one reads no status message.
    with closing(connector.connect(replication=True)) as walsender:
        raw = walsender.pgconn
        options = sql.SQL("(proto_version '1', publication_names {})").format(sql.Literal(publications))
        start = sql.SQL("START_REPLICATION SLOT {} LOGICAL ").format(sql.Identifier(slot))
        position = b"%X/%X" % (lsn >> 32, lsn & 0xFFFFFFFF)
        raw.send_query(b"%s%s %s" % (start.as_bytes(walsender), position, options.as_bytes(walsender)))
        result = wait_results(walsender)[-1]
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise errors.error_from_result(result, encoding="utf-8")
        raw.put_copy_data(struct.pack(">cqqqqb", b"r", lsn, lsn, lsn, 0, 0))
        raw.put_copy_end()
        # A blocking read would keep the GIL until the server answers.
        while (length := raw.get_copy_data(1)[0]) >= 0:
            if not length:
                raw.flush()
                select.select([raw.socket], [], [], 0.2)
                raw.consume_input()
        end_copy(walsender)
