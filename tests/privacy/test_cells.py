"""Disclosure control of one site's cells: each rule by its figures, and suppression against who can solve."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from plasmid.disclosure.cells import CellRules, Cells, cells_of, release, rounded
from plasmid.disclosure.complementary import Extended, protect
from support.hospital.linear_attacker import intervals

OFF = CellRules(min_cohort=None, min_cell=None, dominance=None, max_parameters_share=None, rounding=None)


def only(**values: Any) -> CellRules:
    return CellRules(**{**vars(OFF), **values})


def table(people: list[Any]) -> Cells:
    """Return a table of counts, one record a person."""
    counts = np.array(people)
    where = np.repeat(np.arange(counts.size), counts.ravel())
    ones = np.ones((1, where.size))
    return cells_of(where, np.arange(where.size), ones, ones, counts.shape)


def amounts(*values: float) -> Cells:
    """Return one cell: a count, and a sum of one value a person."""
    numbers = np.array([np.ones(len(values)), values])
    return cells_of(np.zeros(len(values), np.int64), np.arange(len(values)), numbers, numbers, (1,))


# -- the figures of a cell -------------------------------------------------------------------------


def test_people_are_counted_once_and_their_records_added() -> None:
    where = np.array([0, 0, 0, 1, 1, 0])
    who = np.array([7, 7, 8, 7, 9, 9])
    x = np.array([1.0, -4.0, 2.0, 5.0, 6.0, -2.5])
    found = cells_of(where, who, np.array([np.ones(6), x]), np.array([np.ones(6), x]), (3,))
    assert found.cohort == 3
    assert found.people.tolist() == [3, 2, 0]
    assert found.values.tolist() == [[4, 2, 0], [-3.5, 11, 0]]
    assert found.absolute.tolist() == [[4, 2, 0], [3 + 2 + 2.5, 11, 0]]
    assert found.largest.tolist() == [[[2, 1, 0], [1, 1, 0]], [[3, 6, 0], [2.5, 5, 0]]]


# -- each rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("people", "kept"), [(10, False), (11, True)])
def test_a_table_of_few_people_is_kept_back_as_a_whole(people: int, kept: bool) -> None:
    found = release(table([people, 0]), only(min_cohort=11))
    assert found.suppressed.all() != kept
    assert found.values.tolist() == [[people if kept else 0, 0]]
    assert found.why == ({} if kept else {"min_cohort": 2})


@pytest.mark.parametrize(("people", "kept"), [(12, False), (13, True)])
def test_as_many_numbers_as_a_third_of_the_people_are_too_many(people: int, kept: bool) -> None:
    found = release(table([people, 0, 0, 0]), only(max_parameters_share=0.33))
    assert found.suppressed.all() != kept
    assert found.why == ({} if kept else {"max_parameters_share": 4})


@pytest.mark.parametrize(("zeros", "expected"), [("shown", [0, 1, 1, 0, 0]), ("suppressed", [1, 1, 1, 0, 0])])
def test_a_small_cell_is_suppressed_and_a_zero_if_so_said(
    zeros: Literal["shown", "suppressed"], expected: list[int]
) -> None:
    found = release(table([0, 2, 10, 11, 500]), only(min_cell=11, zeros=zeros))
    assert found.suppressed.astype(int).tolist() == expected
    assert found.values.tolist() == [[0, 0, 0, 11, 500]]
    assert found.why == {"min_cell": sum(expected)}


@pytest.mark.parametrize(
    ("values", "dominated"),
    [
        ((70.0, 20.0, 5.0, 5.0), False),  # exactly 90 %
        ((71.0, 20.0, 5.0, 4.0), True),
        ((-71.0, 20.0, 5.0, 4.0), True),  # by absolute values
        ((0.0,) * 20 + (77.0,), True),  # the sum is one person's value
        ((5.0,) * 21, False),
        ((0.0,) * 21, False),
    ],
)
def test_a_sum_that_two_people_dominate_is_suppressed_with_its_count(
    values: tuple[float, ...], dominated: bool
) -> None:
    found = release(amounts(*values), only(dominance=(2, 0.9)))
    assert bool(found.suppressed[0]) is dominated
    assert found.values[:, 0].tolist() == ([0, 0] if dominated else [len(values), sum(values)])
    assert found.why == ({"dominance": 1} if dominated else {})


def test_one_person_s_many_records_dominate_a_count() -> None:
    where, who = np.zeros(111, np.int64), np.array([0] * 100 + list(range(1, 12)))
    ones = np.ones((1, 111))
    found = release(cells_of(where, who, ones, ones, (1,)), only(min_cell=11, dominance=(1, 0.9)))
    assert found.suppressed.all()


def test_rounding_is_half_up_and_a_function_of_the_number() -> None:
    numbers = np.array([0.0, 2.49, 2.5, 7.0, 7.5, 11.0, -2.5, -2.51])
    assert rounded(numbers, 5).tolist() == [0, 0, 5, 5, 10, 10, 0, -5]
    assert rounded(numbers, None) is numbers
    found = [release(table([13, 500]), only(rounding=5)).values.tolist() for _ in range(3)]
    assert found == [[[15, 500]]] * 3


def test_all_rules_together_on_a_table_of_two_axes() -> None:
    people = [[3, 120, 40], [60, 80, 500], [30, 70, 90]]
    found = release(table(people), CellRules())
    assert found.suppressed.astype(int).tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    assert found.values.tolist() == [[[0, 120, 0], [60, 80, 500], [0, 70, 0]]]
    assert found.why == {"min_cell": 1, "complementary": 3}


def test_what_there_is_nobody_to_protect_in_is_not_suppressed() -> None:
    found = release(table([[20, 0], [0, 30]]), CellRules(rounding=None))
    assert not found.suppressed.any()
    assert found.values.tolist() == [[[20, 0], [0, 30]]]


# -- suppression against who can solve ----------------------------------------------------------------

LEAST = 11


def small(counts: np.ndarray, zeros_shown: bool) -> np.ndarray:
    return (counts < LEAST) & ((counts > 0) | (not zeros_shown))


def totals_alone(found: Extended, cell: tuple[int, ...]) -> bool:
    """Return whether the whole table that *cell* is in was kept back."""
    last = [size - 1 for size in found.hidden.shape]
    level = tuple(slice(-1, None) if at == end else slice(0, -1) for at, end in zip(cell, last, strict=True))
    return bool(found.hidden[level].all())


def solved(found: Extended, most: int = 5) -> list[tuple[tuple[int, ...], tuple[float, float]]]:
    """Return what an attacker is left with for *most* primary cells of tables that were not kept back."""
    targets = [tuple(map(int, at)) for at in np.argwhere(found.primary)]
    targets = [cell for cell in targets if not totals_alone(found, cell)]
    targets = targets[:: max(1, len(targets) // most)]
    return list(zip(targets, intervals(found.values, found.hidden, found.floor, targets), strict=True))


def test_control_without_it_margins_give_small_cells_away() -> None:
    counts = np.array([[3, 120, 40], [60, 80, 500], [30, 70, 90]])
    found = protect(counts, small(counts, True), least=LEAST, zeros_shown=True)
    assert intervals(found.values, found.primary, found.floor, [(0, 0)]) == [(3.0, 3.0)]
    assert intervals(found.values, found.hidden, found.floor, [(0, 0)]) == [(1.0, 32.0)]


tables = st.integers(1, 3).flatmap(
    lambda axes: arrays(
        np.int64,
        st.tuples(*[st.integers(2, 6 if axes < 3 else 3)] * axes),
        elements=st.one_of(st.integers(0, 12), st.integers(0, 300)),
        fill=st.nothing(),
    )
)


@settings(max_examples=200, deadline=None)
@given(counts=tables, zeros_shown=st.booleans())
def test_no_suppressed_cell_is_told_by_all_published_cells_and_totals(
    counts: np.ndarray, zeros_shown: bool
) -> None:
    """Neither that it is small nor that it is not, in any table that tells more than its totals do."""
    found = protect(counts, small(counts, zeros_shown), least=LEAST, zeros_shown=zeros_shown)
    for cell, (low, high) in solved(found):
        assert low <= found.floor[cell] + 1e-6
        assert high >= LEAST - 1e-6


@settings(max_examples=80, deadline=None)
@given(counts=tables, zeros_shown=st.booleans(), seed=st.integers(0, 99))
def test_nor_is_one_that_a_person_dominates(counts: np.ndarray, zeros_shown: bool, seed: int) -> None:
    chosen = np.random.default_rng(seed).random(counts.shape) < 0.1
    primary = small(counts, zeros_shown) | (chosen & (counts >= LEAST))
    found = protect(counts, primary, least=LEAST, zeros_shown=zeros_shown)
    for cell, (low, high) in solved(found):
        assert low <= max(int(found.floor[cell]), int(found.values[cell]) - LEAST) + 1e-6
        assert high >= max(LEAST, found.values[cell]) - 1e-6


def test_most_of_a_well_filled_table_is_told() -> None:
    """Of 12 x 12 cells with 200 people on average, a tenth small: no more than twice that beside those."""
    source = np.random.default_rng(7)
    counts = source.negative_binomial(0.7, 0.7 / 200.7, size=(12, 12))
    primary = small(counts, True)
    hidden = protect(counts, primary, least=LEAST, zeros_shown=True).hidden[:-1, :-1]
    assert 0.05 < primary.mean() < 0.15
    assert 0 < (hidden & ~primary).mean() < 2 * primary.mean()
