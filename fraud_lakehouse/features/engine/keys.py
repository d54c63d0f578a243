"""Keys to slots: each distinct key has a number from 1 on; 0 means no key.

Text is identified by its SipHash-1-3 of 128 bits, under a secret of this process. The probability of a collision among
10^9 texts is below 10^-20, and without the secret nobody can construct one.
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa

from fraud_lakehouse.features.engine.compiled import Array, Word, inner

SECRET = np.frombuffer(os.urandom(16), dtype=np.uint64)


class Keys:
    """All keys seen so far, either all integers or all text.

    Args:
        width: 64-bit words per key: 1 for integers, 2 for text.
    """

    def __init__(self, width: int) -> None:
        self.size = 1
        """One more than the largest slot."""
        self._known = np.zeros((64, width), np.uint64)
        self._table = np.zeros(128, np.int32)

    @property
    def nbytes(self) -> int:
        """The size of the arrays."""
        return int(self._known.nbytes + self._table.nbytes)

    def slots(self, words: Array, valid: Array) -> Array:
        """The slot of each key, in int32; new keys get the next ones."""
        slots = np.zeros(len(words), np.int32)
        done, self.size = find(words, valid, self._known, self._table, self.size, slots, 0)
        while done < len(words):
            self._grow()
            done, self.size = find(words, valid, self._known, self._table, self.size, slots, done)
        return slots

    def keep(self, kept: Array) -> None:
        """Drop the keys whose slot is not marked; the others are renumbered in the same order."""
        self._known = self._known[: self.size][kept]
        self.size = len(self._known)
        self._table = np.zeros(_table_size(self.size), np.int32)
        fill(self._known, self.size, self._table)

    def _grow(self) -> None:
        if self.size == len(self._known):
            known = np.zeros((self.size + self.size // 8 + 64, self._known.shape[1]), np.uint64)
            known[: self.size] = self._known
            self._known = known
        if 4 * self.size >= 3 * len(self._table):
            self._table = np.zeros(_table_size(self.size), np.int32)
            fill(self._known, self.size, self._table)


def _table_size(size: int) -> int:
    """A power of two; a new table is at most two thirds full."""
    return 1 << max(7, (size + size // 2).bit_length())


def words_of(column: pa.Array) -> tuple[Array, Array]:
    """The words of each key, and whether the key is valid. `column`: int64 or large_string."""
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_int64(column.type):
        return column.fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64).reshape(-1, 1).copy(), valid
    words = np.empty((len(column), 2), np.uint64)
    hash_texts(*text_buffers(column), valid, SECRET, words)
    return words, valid


def text_buffers(column: pa.Array) -> tuple[Array, Array]:
    """The bytes of a large_string column and the offsets of its texts, one more than texts."""
    _, offsets, text = column.buffers()
    bounds = np.zeros(1, np.int64) if offsets is None else np.frombuffer(offsets, np.int64)
    data = np.zeros(0, np.uint8) if text is None else np.frombuffer(text, np.uint8)
    bounds = bounds[column.offset : column.offset + len(column) + 1]
    data.flags.writeable = bounds.flags.writeable = False  # arrays of one type compile once
    return data, bounds


@inner
def find(
    words: Array, valid: Array, known: Array, table: Array, size: Word, slots: Array, first: Word
) -> tuple[Word, Word]:
    """Find or add the slots of the keys from number `first` on; returns the key where it was full, and the size."""
    mask = len(table) - 1
    for row in range(first, len(words)):
        if not valid[row]:
            continue
        place = _place(words, row) & mask
        while True:
            slot = table[place]
            if slot == 0:
                if size == len(known) or 4 * size >= 3 * len(table):
                    return row, size
                slot = size
                for word in range(words.shape[1]):
                    known[slot, word] = words[row, word]
                table[place] = slot
                size += 1
                break
            if words[row, 0] == known[slot, 0] and (words.shape[1] == 1 or words[row, 1] == known[slot, 1]):
                break
            place = (place + 1) & mask
        slots[row] = slot
    return len(words), size


@inner
def fill(known: Array, size: Word, table: Array) -> None:
    """Insert all known keys into an empty table."""
    mask = len(table) - 1
    for slot in range(1, size):
        place = _place(known, slot) & mask
        while table[place]:
            place = (place + 1) & mask
        table[place] = slot


@inner
def _place(words: Array, row: Word) -> Word:
    """The finalizer of MurmurHash3 over the first word, not negative."""
    mixed = words[row, 0]
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return np.int64((mixed ^ (mixed >> np.uint64(33))) >> np.uint64(1))


@inner
def hash_texts(text: Array, bounds: Array, valid: Array, secret: Array, words: Array) -> None:
    """SipHash-1-3 of 128 bits (https://github.com/veorq/SipHash) of each text."""
    for row in range(len(words)):
        if not valid[row]:
            continue
        begin, end = bounds[row], bounds[row + 1]
        v0 = secret[0] ^ np.uint64(0x736F6D6570736575)
        v1 = secret[1] ^ np.uint64(0x646F72616E646F6D) ^ np.uint64(0xEE)
        v2 = secret[0] ^ np.uint64(0x6C7967656E657261)
        v3 = secret[1] ^ np.uint64(0x7465646279746573)
        for first in range(begin, end + 1, 8):
            word = np.uint64(0) if first + 8 <= end else np.uint64(end - begin) << np.uint64(56)
            for place in range(first, min(first + 8, end)):
                word |= np.uint64(text[place]) << np.uint64(8 * (place - first))
            v3 ^= word
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
            v0 ^= word
        v2 ^= np.uint64(0xEE)
        for _ in range(3):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        words[row, 0] = v0 ^ v1 ^ v2 ^ v3
        v1 ^= np.uint64(0xDD)
        for _ in range(3):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        words[row, 1] = v0 ^ v1 ^ v2 ^ v3


@inner
def _round(v0: Word, v1: Word, v2: Word, v3: Word) -> tuple[Word, Word, Word, Word]:
    v0 += v1
    v2 += v3
    v1 = _rotated(v1, 13) ^ v0
    v3 = _rotated(v3, 16) ^ v2
    v0 = _rotated(v0, 32)
    v2 += v1
    v0 += v3
    v1 = _rotated(v1, 17) ^ v2
    v3 = _rotated(v3, 21) ^ v0
    v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


@inner
def _rotated(word: Word, bits: Word) -> Word:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))
