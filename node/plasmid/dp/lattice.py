"""Tables that draw whole numbers by given probabilities, in integer arithmetic, at a known distance.

Rules
-----
1. A distribution is given by its characteristic function f, real because the distribution is symmetric. A
   table's probabilities are the inverse Fourier sum p(y) = 1/N (sum of f(s) cos(s y)) over the N points
   s = 2 pi j / N, |y| < N/2, in integers of :data:`_BITS` bits. Of a smooth f few points are above 2**-220.
2. A large number is a sum of digits, Z + 128 Z' + ... + 128**k Y (after Micciancio and Walter 2017,
   https://eprint.iacr.org/2017/259, section 4). Digits Z are Skellam of variance :data:`_DIGIT`; the table
   of Y is that of the quotient of f and the digits' functions, so that the product is f for every
   |t| <= pi / 128**k. Beyond, a digit's function is below exp(-157).
3. A table is walked by Walker's alias method (1977): one column, one threshold. Thresholds have 192 bits
   with the column's number; the first word decides unless it is equal, then two more words do.
4. The distance is total variation, per value: :data:`DISTANCE` bounds what follows from it. A table sums to
   1 exactly; each term of it is checked when a table is made, and a table that would be further away is
   refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DISTANCE = 2.0**-136
"""Largest total variation distance between a drawn value and its distribution."""

MAX_DEVIATION = 2.0**48
"""Largest standard deviation; values stay below 2**53, where float64 begins to have gaps."""

WEIGHT_BITS = 192
_BITS, _DIGITS = 220, 80
_BASE = 128
_DIGIT = 2.0**19
_LARGEST = 1.25 * 2.0**20
"""Variance above which there is a further digit; a table has at most 2**15 columns then."""
_PI = Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534"
)
_BLOCK = 32_768

LogFunction = Callable[[Decimal], Decimal]


class Words(Protocol):
    """A source of random bits."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return *count* independent uniform words."""


class Table:
    """Draws whole numbers y, |y| < N/2, by the inverse Fourier sum of a characteristic function.

    Parameters
    ----------
    log_function
        The natural logarithm of the function at s in [0, pi], for Decimal s.
    variance
        Of the distribution; it decides on N, so that the tails beyond weigh less than 2**-140.
    """

    def __init__(self, log_function: LogFunction, variance: float) -> None:
        self.size = 512
        while self.size < 28.6 * math.sqrt(variance):
            self.size *= 2
        if _log2_tail(self.size // 2, variance) > -140:
            raise ValueError(f"a table of {self.size} columns is too narrow for a variance of {variance}")
        self._alias(probabilities(log_function, self.size))

    def _alias(self, weights: list[int]) -> None:
        """Share all weight out to equal columns, each with its own value below a threshold, another above."""
        half, capacity = self.size // 2, 2**WEIGHT_BITS // self.size
        left = [0, *weights[:0:-1], *weights]  # of y = -N/2, ..., N/2 - 1
        thresholds, other = [capacity] * self.size, np.arange(self.size, dtype=np.int32)
        small = [column for column, weight in enumerate(left) if weight < capacity]
        large = [column for column, weight in enumerate(left) if weight >= capacity]
        while small:
            column, donor = small.pop(), large[-1]
            thresholds[column], other[column] = left[column], donor
            left[donor] -= capacity - left[column]
            if left[donor] < capacity:
                small.append(large.pop())
            if not large:
                break
        self._column_bits = self.size.bit_length() - 1
        self._first = np.array([threshold >> 128 for threshold in thresholds], np.uint64)
        self._rest = [threshold & (2**128 - 1) for threshold in thresholds]
        self._other, self._half = other, half

    def draw(self, source: Words, size: int) -> NDArray[np.int32]:
        """Return *size* independent values, int32 [size]."""
        words = source.words(size)
        columns = (words & np.uint64(self.size - 1)).astype(np.intp)
        words = words >> np.uint64(self._column_bits)
        first = self._first[columns]
        above = words >= first
        for place in np.flatnonzero(words == first):  # of 2**49 words about one
            high, low = source.words(2).tolist()
            above[place] = (high << 64 | low) >= self._rest[columns[place]]
        return np.where(above, self._other[columns], columns.astype(np.int32)) - np.int32(self._half)


def draw(tables: tuple[Table, ...], source: Words, size: int) -> NDArray[np.int64]:
    """Return *size* values, each the sum of a digit of every table, lowest first; int64 [size]."""
    values = np.zeros(size, np.int64)
    for start in range(0, size, _BLOCK):
        block = values[start : start + _BLOCK]
        for place, table in enumerate(tables):
            digits = table.draw(source, block.size).astype(np.int64)
            digits *= _BASE**place
            block += digits
    return values


@lru_cache(maxsize=4)
def skellam_tables(variance: float) -> tuple[Table, ...]:
    """Return the digits of a Skellam value: log f(t) = -V (1 - cos t).

    Raises
    ------
    ValueError
        A variance that is not above 0 and at most ``MAX_DEVIATION**2``.
    """
    exact = Decimal(variance)
    return _tables(lambda t: -exact * _versine(t), variance)


@lru_cache(maxsize=4)
def gaussian_tables(deviation: float) -> tuple[Table, ...]:
    """Return the digits of a Gaussian value rounded to the nearest whole number.

    log f(t) = log(sin(t/2) / (t/2)) - (deviation t)**2 / 2; the images of f around other multiples of 2 pi
    are below exp(-(8 pi)**2 / 2).

    Raises
    ------
    ValueError
        A deviation that is not from 8 to MAX_DEVIATION.
    """
    if deviation < 8:
        raise ValueError(f"a rounded Gaussian has a standard deviation of at least 8 steps, not {deviation}")
    exact = Decimal(deviation) ** 2

    def log_function(t: Decimal) -> Decimal:
        return (2 * _sine(t / 2) / t).ln() - exact * t * t / 2

    return _tables(log_function, deviation**2 + 1 / 12)


def _tables(log_function: LogFunction, variance: float) -> tuple[Table, ...]:
    if not 0 < variance <= MAX_DEVIATION**2:
        raise ValueError(f"a variance of {variance} is not above 0 and at most 2**96")
    places, left = 0, variance
    while left > _LARGEST:
        left = (left - _DIGIT) / _BASE**2
        places += 1
    if not places:
        return (Table(log_function, variance),)

    def of_the_top(s: Decimal) -> Decimal:
        t = s / _BASE**places
        return log_function(t) + Decimal(_DIGIT) * sum(_versine(t * _BASE**place) for place in range(places))

    return (_digit(),) * places + (Table(of_the_top, left),)


@lru_cache(maxsize=1)
def _digit() -> Table:
    return Table(lambda t: -Decimal(_DIGIT) * _versine(t), _DIGIT)


def probabilities(log_function: LogFunction, size: int) -> list[int]:
    """Return the probabilities of 0, 1, ..., size/2 - 1 in 2**-192; with those of -1, ... they are 1."""
    half, one = size // 2, 1 << _BITS
    with localcontext() as context:
        context.prec = _DIGITS
        step, points = 2 * _PI / size, []
        for j in range(1, half + 1):
            log = log_function(step * j)
            if log < -153:
                break
            points.append(int(log.exp() * one))
        cosines = [one, int((1 - _versine(step)) * one)]
    while len(cosines) < size:
        cosines.append((2 * cosines[1] * cosines[-1] >> _BITS) - cosines[-2])
    table, places = np.array(cosines, object), np.arange(half)
    total = np.full(half, one, object)
    for j, value in enumerate(points, 1):
        total += (value * (1 if j == half else 2) * table[places * j % size]) >> _BITS
    shift = _BITS - WEIGHT_BITS + size.bit_length() - 1
    weights = [max(0, value >> shift) for value in total]
    rest = 2**WEIGHT_BITS - (2 * sum(weights) - weights[0])
    if abs(rest) > 2 ** (WEIGHT_BITS - 145):
        raise ValueError(f"the probabilities of a table of {size} columns add up to 1 - {rest / 2.0**192}")
    weights[0] += rest
    return weights


def _log2_tail(reach: int, variance: float) -> float:
    """Return a bound on log2 of P(|y| >= *reach*): Chernoff's, for log E exp(l y) <= V (cosh l - 1)."""
    root = math.hypot(reach, variance)
    exponent = -reach * math.asinh(reach / variance) + reach * reach / (root + variance)
    return 1 + exponent / math.log(2)


def _sine(t: Decimal) -> Decimal:
    term, total, count, square = t, t, 1, t * t
    while abs(term) > Decimal(10) ** -_DIGITS:
        count += 2
        term = -term * square / (count * (count - 1))
        total += term
    return total


def _versine(t: Decimal) -> Decimal:
    """Return 1 - cos t without cancellation."""
    return 2 * _sine(t / 2) ** 2
