"""128-bit numbers as two unsigned words, modulo 2^128: sums of squares, and the standard deviation from them."""

from __future__ import annotations

import math

import numpy as np

from fraud_lakehouse.features.engine.compiled import Word, inner


@inner
def product(a: Word, b: Word) -> tuple[Word, Word]:
    """The product of two signed words: low and high word."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = np.uint64(abs(a)), np.uint64(abs(b))
    low, middle, other = (x & mask) * (y & mask), (x & mask) * (y >> half), (x >> half) * (y & mask)
    carry = (low >> half) + (middle & mask) + (other & mask)
    high = (x >> half) * (y >> half) + (middle >> half) + (other >> half) + (carry >> half)
    low = (low & mask) | (carry << half)
    if (a < 0) != (b < 0):
        return minus(np.uint64(0), np.uint64(0), low, high)
    return low, high


@inner
def plus(low: Word, high: Word, other_low: Word, other_high: Word) -> tuple[Word, Word]:
    """The sum: low and high word."""
    total = low + other_low
    return total, high + other_high + (np.uint64(1) if total < low else np.uint64(0))


@inner
def minus(low: Word, high: Word, other_low: Word, other_high: Word) -> tuple[Word, Word]:
    """The difference: low and high word."""
    return low - other_low, high - other_high - (np.uint64(1) if low < other_low else np.uint64(0))


@inner
def deviation(n: Word, total: Word, low: Word, high: Word) -> float:
    """Sample standard deviation from count, sum and sum of squares, as in the macro exact_deviation."""
    mean = float(total) / n
    pivot = math.floor(abs(mean))
    if abs(mean) - pivot >= 0.5:
        pivot += 1
    nearest = np.int64(pivot) if mean >= 0 else -np.int64(pivot)
    remainder = total - n * nearest
    low, high = minus(low, high, *product(nearest, total))
    low, high = minus(low, high, *product(nearest, remainder))
    deviations = float(low) + float(high) * 18446744073709551616.0
    return math.sqrt(max(deviations - float(remainder) ** 2 / n, 0.0) / (n - 1))
