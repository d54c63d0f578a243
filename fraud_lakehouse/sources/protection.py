"""Sensitive columns: dropped, masked or hashed while they are captured, so that nothing of them is ever stored.

- drop: the column is not there, in no table and no quarantine.
- mask: of a text, all but the last four characters become asterisks (all, of up to four). Any other value is null.
- hash: HMAC-SHA256 with a key, as 64 hexadecimal digits. Equal values have equal hashes in every source with that key,
  whatever their types, as long as their texts are equal: tables can be joined by them.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import polars as pl

from fraud_lakehouse.errors import SettingsError

SHOWN = 4
"""How many characters of a masked text are left."""


@dataclass(frozen=True)
class Protection:
    """What is done to a table's sensitive columns.

    Args:
        drop, mask, hash: names of columns.
        key: of the hashes.
    """

    drop: frozenset[str] = frozenset()
    mask: frozenset[str] = frozenset()
    hash: frozenset[str] = frozenset()
    key: bytes = field(default=b"", repr=False)

    def __bool__(self) -> bool:
        return bool(self.drop or self.mask or self.hash)

    @property
    def columns(self) -> frozenset[str]:
        """All sensitive columns."""
        return self.drop | self.mask | self.hash

    def schema(self, columns: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
        """The columns as they are stored."""
        return {
            name: pl.String() if name in self.hash else kind for name, kind in columns.items() if name not in self.drop
        }

    def frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows as they are stored; columns that are not there are ignored."""
        if not self:
            return frame
        protected = [self._hashed(frame[name]) for name in self.hash if name in frame.columns]
        protected += [_masked(frame[name]) for name in self.mask if name in frame.columns]
        texts = [
            _without(frame[name], self.columns, keeps_names=self.hash | self.mask if name == "_unchanged" else ())
            for name in ("_text", "_unchanged")
            if name in frame.columns
        ]
        return frame.with_columns(*protected, *texts).drop(self.drop, strict=False)

    def _hashed(self, values: pl.Series) -> pl.Series:
        texts = values.bin.encode("hex") if values.dtype == pl.Binary else values.cast(pl.String)
        hashed = {text: hmac.digest(self.key, text.encode(), "sha256").hex() for text in texts.drop_nulls().unique()}
        return pl.Series(values.name, [hashed.get(text) for text in texts], pl.String)


NOT_PROTECTED = Protection()
"""Of a table without sensitive columns."""


def protection_of(
    where: str,
    sensitive: Mapping[str, Collection[str]],
    key_env: str | None,
    environment: Mapping[str, str],
) -> Protection:
    """The protection of declared columns.

    Args:
        where: names the table or topic, for the error.
        sensitive: names of columns by what is done to them (`drop`, `mask`, `hash`).
        key_env: the variable with the key of hashes.

    Raises:
        SettingsError: the key is needed and not set.
    """
    drop, mask, hashed = (frozenset(sensitive.get(what, ())) for what in ("drop", "mask", "hash"))
    key = environment.get(key_env or "", "")
    if hashed and not key:
        raise SettingsError(
            f"{key_env} is not set, and {where} has columns to be hashed with its key: {', '.join(sorted(hashed))}",
            "set it to a secret of at least 16 characters, the same for all sources that are to be joined",
        )
    return Protection(drop, mask, hashed, key.encode())


def _masked(values: pl.Series) -> pl.Series:
    if values.dtype != pl.String:
        return pl.Series(values.name, [None], values.dtype).new_from_index(0, len(values))
    text = pl.col(values.name)
    length = text.str.len_chars()
    hidden = pl.when(length > SHOWN).then(length - SHOWN).otherwise(length)
    tail = pl.when(length > SHOWN).then(text.str.tail(SHOWN)).otherwise(pl.lit(""))
    stars = pl.lit("*").repeat_by(hidden).list.join("")
    return values.to_frame().select((stars + tail).alias(values.name)).to_series()


def _without(texts: pl.Series, columns: Collection[str], keeps_names: Collection[str]) -> pl.Series:
    """JSON objects and lists of column names, without sensitive columns; null where nothing is left."""
    if not texts.null_count() < len(texts):
        return texts
    left = []
    for text in texts:
        found = json.loads(text) if text is not None else None
        if isinstance(found, dict):
            found = {name: value for name, value in found.items() if name not in columns}
        elif isinstance(found, list):
            found = [name for name in found if name not in columns or name in keeps_names]
        left.append(json.dumps(found, ensure_ascii=False, separators=(",", ":")) if found else None)
    return pl.Series(texts.name, left, texts.dtype)
