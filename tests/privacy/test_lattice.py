"""The tables' distance from the distributions, by other arithmetic, and that draws follow the tables."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy.stats import chi2

from plasmid.dp import lattice
from plasmid.dp.lattice import (
    DISTANCE,
    WEIGHT_BITS,
    Table,
    gaussian_tables,
    probabilities,
    skellam_tables,
)
from plasmid.dp.noise import Source


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the tables of a distribution anew, with their probabilities."""

    def made(make: Any, argument: float) -> tuple[tuple[Table, ...], list[dict[int, int]]]:
        kept: list[list[int]] = []

        def keep(*given: Any) -> list[int]:
            kept.append(probabilities(*given))
            return kept[-1]

        monkeypatch.setattr(lattice, "probabilities", keep)
        lattice._digit.cache_clear()
        found = make.__wrapped__(argument)
        digits = [_by_value(weights) for weights in kept]
        return found, [digits[0]] * (len(found) - 1) + [digits[-1]]

    yield made
    lattice._digit.cache_clear()


def _by_value(weights: list[int]) -> dict[int, int]:
    """Return the weight of every value, in 2**-192."""
    positive = dict(enumerate(weights))
    return positive | {-y: weight for y, weight in positive.items()}


@cache
def _bessel(variance: float) -> list[Any]:
    """Return exp(-V) I_y(V) for y from 0, to 80 digits.

    By Miller's algorithm, on whole numbers: I_(y-1) = I_(y+1) + 2y/V I_y, downward, to a sum of 1.
    """
    exact, values = Fraction(variance), [0, 2**400]
    for y in range(300 + round(25 * math.sqrt(variance)), 0, -1):
        values.append(values[-2] + 2 * y * exact.denominator * values[-1] // exact.numerator)
    values.reverse()
    total = 2 * sum(values) - values[0]
    with mpmath.workdps(90):
        return [mpmath.mpf(value) / total for value in values]


def _skellam(y: int, variance: float) -> Any:
    """Return the exact probability."""
    return _bessel(variance)[abs(y)]


def _rounded(y: int, deviation: float) -> Any:
    scale = mpmath.mpf(deviation) * mpmath.sqrt(2)
    return (
        mpmath.erfc((abs(y) - mpmath.mpf(1) / 2) / scale) - mpmath.erfc((abs(y) + mpmath.mpf(1) / 2) / scale)
    ) / 2


@pytest.mark.parametrize(
    ("make", "exact", "argument"),
    [
        (skellam_tables, _skellam, 0.3),
        (skellam_tables, _skellam, 4.0),
        (skellam_tables, _skellam, 318.9),
        (skellam_tables, _skellam, 5_000.25),
        (gaussian_tables, _rounded, 8.0),
    ],
)
def test_a_table_is_as_near_to_the_exact_probabilities_as_is_charged(
    tables: Any, make: Any, exact: Any, argument: float
) -> None:
    (_,), (found,) = tables(make, argument)
    assert sum(found.values()) == 2**WEIGHT_BITS
    with mpmath.workdps(90):
        inside = [(mpmath.ldexp(weight, -WEIGHT_BITS), exact(y, argument)) for y, weight in found.items()]
        outside = 1 - sum(wanted for _, wanted in inside)
        distance = (sum(abs(ours - wanted) for ours, wanted in inside) + abs(outside)) / 2
        assert distance < DISTANCE
        # the control: a scale that is off by 2**-100 is seen
        off = argument * (1 + 2.0**-40)
        assert (
            sum(abs(ours - exact(y, off)) for (ours, _), y in zip(inside, found, strict=True)) / 2 > 2.0**-50
        )


@pytest.mark.parametrize(
    ("make", "exact", "argument"),
    [
        (skellam_tables, _skellam, 1.4e6),
        (skellam_tables, _skellam, 3e8),
        (gaussian_tables, _rounded, 40_000.0),
    ],
)
def test_a_sum_of_digits_has_the_exact_probabilities(
    tables: Any, make: Any, exact: Any, argument: float
) -> None:
    """Some values far apart, each by the whole sum over the digits."""
    found, (low, top) = tables(make, argument)
    assert len(found) == 2
    deviation = math.sqrt(argument) if make is skellam_tables else argument
    for spread in (0, 0.7, 3, 6, 11):
        value = round(spread * deviation)
        summed = sum(weight * low.get(value - lattice._BASE * y, 0) for y, weight in top.items())
        with mpmath.workdps(90):
            wanted = exact(value, argument)
            ours = mpmath.ldexp(summed, -2 * WEIGHT_BITS)
            assert abs(ours - wanted) < DISTANCE / (2 * 12 * deviation)
            assert abs(ours / wanted - 1) < 2.0**-30, value


@pytest.mark.parametrize("argument", [2.0**36, 2.0**62])
def test_digits_of_more_than_two_places_have_the_function_that_is_asked_for(
    tables: Any, argument: float
) -> None:
    """The product of the digits' characteristic functions, each summed over its table, is the Skellam one."""
    found, digits = tables(skellam_tables, argument)
    assert len(found) > 2
    with mpmath.workdps(70):
        for spread in (0.5, 5):
            t = spread / mpmath.sqrt(argument)
            product = mpmath.mpf(1)
            for place, digit in enumerate(digits):
                angle = t * lattice._BASE**place
                terms = (2 * weight * mpmath.cos(angle * y) for y, weight in digit.items() if y > 0 < weight)
                product *= mpmath.ldexp(digit[0] + sum(terms), -WEIGHT_BITS)
            assert abs(product - mpmath.exp(-mpmath.mpf(argument) * (1 - mpmath.cos(t)))) < DISTANCE


def test_the_bound_on_what_lies_beyond_a_table_holds_and_is_not_loose() -> None:
    with mpmath.workdps(60):
        for reach, variance in ((30, 4.0), (256, 318.9), (60, 50.0)):
            beyond = 2 * sum(_skellam(y, variance) for y in range(reach, reach + 200))
            bound = lattice._log2_tail(reach, variance)
            assert float(mpmath.log(beyond, 2)) < bound < float(mpmath.log(beyond, 2)) + 12


def test_a_table_that_would_be_too_far_away_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice, "_log2_tail", lambda reach, variance: -139.0)
    with pytest.raises(ValueError, match="too narrow"):
        Table(lambda t: -4 * lattice._versine(t), 4.0)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="add up to"):  # not a characteristic function of so narrow a table
        Table(lambda t: -lattice.Decimal(100_000) * lattice._versine(t), 4.0)


@pytest.mark.parametrize("variance", [0.3, 40.0])
def test_columns_and_thresholds_hold_each_value_s_weight_exactly(variance: float) -> None:
    (table,) = skellam_tables(variance)
    weights = probabilities(lambda t: -lattice.Decimal(variance) * lattice._versine(t), table.size)
    held: Counter[int] = Counter()
    capacity = 2**WEIGHT_BITS // table.size
    for column in range(table.size):
        threshold = (int(table._first[column]) << 128) + table._rest[column]
        held[column - table._half] += threshold
        held[int(table._other[column]) - table._half] += capacity - threshold
    assert {y: weight for y, weight in held.items() if weight} == {
        y: weights[abs(y)] for y in range(-table._half + 1, table._half) if weights[abs(y)]
    }


def test_equal_words_are_decided_by_the_next_two() -> None:
    (table,) = skellam_tables(4.0)
    column = table._half  # the value 0
    column = next(c for c in range(table.size) if 0 < table._rest[c] < 2**128 - 1 and table._other[c] != c)
    rest = table._rest[column]
    word = (int(table._first[column]) << table._column_bits) | column

    class Words:
        def __init__(self, after: int) -> None:
            self.given = [word, after >> 64, after & (2**64 - 1)]

        def words(self, count: int) -> np.ndarray:
            taken, self.given = self.given[:count], self.given[count:]
            return np.array(taken, np.uint64)

    assert table.draw(Words(rest - 1), 1).tolist() == [column - table._half]
    assert table.draw(Words(rest), 1).tolist() == [int(table._other[column]) - table._half]


def test_draws_under_a_given_key_are_the_same_and_follow_the_table() -> None:
    variance, size = 30.0, 400_000
    (table,) = skellam_tables(variance)
    values = lattice.draw((table,), Source(bytes(32)), size)
    assert values[:8].tolist() == lattice.draw((table,), Source(bytes(32)), size)[:8].tolist()
    with mpmath.workdps(20):
        expected = {y: float(_skellam(y, variance)) * size for y in range(-25, 26)}
    seen = Counter(values.tolist())
    statistic = sum((seen[y] - wanted) ** 2 / wanted for y, wanted in expected.items() if wanted > 20)
    cells = sum(wanted > 20 for wanted in expected.values())
    assert chi2.isf(1 - 1e-6, cells - 1) < statistic < chi2.isf(1e-6, cells - 1)
