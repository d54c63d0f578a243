"""Checks that the captured table of exchange rates fits a stream of several currencies."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.pipeline.mistakes import nearest
from fraud_lakehouse.transform.captured import Captured

NUMBER = re.compile(r"tinyint|smallint|integer|bigint|float|double|decimal\(\d+,\s*\d+\)")
_TEXT = re.compile("varchar")
_DATE = re.compile("timestamp|timestamptz|date|varchar")


def with_rates(stream: PaymentStream, captured: Mapping[str, Captured]) -> PaymentStream:
    """The stream with key and types of its table of rates; unchanged if it has one currency.

    Raises:
        TransformError: the table is not captured yet, or lacks such columns; names stream, table and column.
    """
    rates = stream.rates
    if rates is None:
        return stream
    table = captured.get(rates.table)
    if table is None:
        raise _waiting(stream, f"its table of rates, bronze/{rates.table}, is not captured yet", "capture it")
    kinds = {name: kind for name, kind in table.columns if name in table.present or not table.present}
    expected = (
        (rates.currency, _TEXT, "a text"),
        (rates.valid_from, _DATE, "a date or a timestamp"),
        (rates.rate, NUMBER, "a number"),
    )
    for column, fitting, what in expected:
        where = f"of the table of rates, bronze/{rates.table},"
        if column not in kinds:
            problem = f"there is no column {column} {where} expected one of {', '.join(sorted(kinds))}"
            raise _waiting(stream, problem + nearest(column, kinds), "correct the name")
        if not fitting.fullmatch(kinds[column]):
            problem = f"the column {column} {where} is {kinds[column]}, expected {what}"
            raise _waiting(stream, problem, "name another column")
    fields = {column: kinds[column] for column in rates.columns}
    return stream.model_copy(update={"rates": rates.model_copy(update={"fields": fields, "key": list(table.key)})})


def _waiting(stream: PaymentStream, problem: str, fix: str) -> TransformError:
    return TransformError(f"streams.yml, {stream.name}: {problem}", f"{fix}; the stream has no models until then")
