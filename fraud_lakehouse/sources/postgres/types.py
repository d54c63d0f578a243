r"""PostgreSQL types and how their text becomes typed columns; the same for snapshot and log.

Every value arrives as the text of its type's output function (ISO dates, UTC, hex bytea). A value that the typed column
cannot represent (infinity, NaN numerics, more digits, years outside 1 to 9999) is null there, and its exact text is
stored in `_text`. For text that is not UTF-8 (a SQL_ASCII database), the column has `\xNN` for each invalid byte, and
`_text` has all bytes in hexadecimal, like a bytea.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

_BOOL, _BYTEA, _INT8, _INT2, _INT4, _OID = 16, 17, 20, 21, 23, 26
_FLOAT4, _FLOAT8, _DATE, _TIMESTAMP, _TIMESTAMPTZ, _NUMERIC = 700, 701, 1082, 1114, 1184, 1700
_UNBOUNDED_PRECISION, _UNBOUNDED_SCALE = 38, 9
_UTC_SUFFIX = "+00"
_BYTES = "\0"  # prefix of the hexadecimal digits of invalid UTF-8; PostgreSQL's text cannot contain it

_FIXED: dict[int, pl.DataType] = {
    _BOOL: pl.Boolean(),
    _BYTEA: pl.Binary(),
    _INT2: pl.Int16(),
    _INT4: pl.Int32(),
    _INT8: pl.Int64(),
    _OID: pl.Int64(),
    _FLOAT4: pl.Float32(),
    _FLOAT8: pl.Float64(),
    _DATE: pl.Date(),
    _TIMESTAMP: pl.Datetime("us"),
    _TIMESTAMPTZ: pl.Datetime("us", "UTC"),
}

SESSION_SETTINGS = {
    "datestyle": "ISO,YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "search_path": "pg_catalog",
    "row_security": "off",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""Session settings that this module's parsing relies on, and that switch off the role's time limits."""
SESSION_OPTIONS = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items())
SESSION_LIMITS = {"idle_session_timeout": 140000, "transaction_timeout": 170000}
"""Further time limits to switch off, and the first server version that has each."""


@dataclass(frozen=True)
class ColumnType:
    """A type in the catalog: the base type's oid and its modifier (domains are already resolved)."""

    oid: int
    modifier: int = -1

    @property
    def precision_and_scale(self) -> tuple[int, int] | None:
        """Precision and scale of a numeric(p,s) that fits a 38-digit decimal; None if unbounded or larger."""
        if self.oid != _NUMERIC or self.modifier < 4:
            return None
        packed = self.modifier - 4
        precision, scale = (packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024
        return (precision, scale) if 0 <= scale <= precision <= 38 else None

    @property
    def dtype(self) -> pl.DataType:
        """The typed column's data type; String for every other type."""
        if self.oid == _NUMERIC:
            return pl.Decimal(*(self.precision_and_scale or (_UNBOUNDED_PRECISION, _UNBOUNDED_SCALE)))
        return _FIXED.get(self.oid, pl.String())

    def parse(self, text: pl.Series) -> tuple[pl.Series, pl.Series | None]:
        """Parse a column of texts.

        Args:
            text: String series, null where the source is null.

        Returns:
            The typed series, and the texts of values it cannot represent exactly, null elsewhere (None if none).
        """
        if self.dtype == pl.String():
            return _shown(text)
        typed = self._typed(text)
        lossy = None
        if typed.null_count() > text.null_count():
            lossy = typed.is_null() & text.is_not_null()
        if self.oid == _NUMERIC and self.precision_and_scale is None:
            # Rounded to nine decimals: the exact text is kept.
            rounded = text.str.contains(r"\.\d{9}\d*[1-9]").fill_null(False)
            lossy = rounded if lossy is None else lossy | rounded
        return typed, text.set(~lossy, None) if lossy is not None and lossy.any() else None

    def _typed(self, text: pl.Series) -> pl.Series:
        dtype = self.dtype
        if dtype == pl.Boolean():
            return text == "t"
        if dtype == pl.Binary():
            return text.str.slice(2).str.decode("hex", strict=False)
        if dtype == pl.Date():
            return text.str.to_date("%Y-%m-%d", strict=False)
        if dtype == pl.Datetime("us"):
            return text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
        if dtype == pl.Datetime("us", "UTC"):
            moments = text.str.strip_suffix(_UTC_SUFFIX)
            return moments.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False).dt.replace_time_zone(
                "UTC"
            )
        return text.cast(dtype, strict=False)


def text_of(values: pl.Series) -> pl.Series:
    """Bytes as the text that `ColumnType.parse` reads."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.ComputeError:
        decoded = [None if value is None else decode(value) for value in values]
        return pl.Series(values.name, decoded, dtype=pl.String)


def decode(value: bytes) -> str:
    """A value's bytes as the text that `ColumnType.parse` reads."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _BYTES + value.hex()


def _shown(text: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """The readable texts, and the exact bytes of those that are not UTF-8."""
    marks = text.str.starts_with(_BYTES).fill_null(False)
    if not marks.any():
        return text, None
    digits = text.set(~marks, None).str.strip_prefix(_BYTES)
    shown = [None if one is None else bytes.fromhex(one).decode(errors="backslashreplace") for one in digits]
    return pl.Series(text.name, shown, dtype=pl.String).zip_with(marks, text), "\\x" + digits
