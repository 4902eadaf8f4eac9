"""The overlap guard: it finds every pair of sets that differ by too few, and lets the others pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmid.core.errors import PolicyRefused, StorageError
from plasmid.data.people import person_key
from plasmid.disclosure.differencing import PREFIX, conflict, sets_of
from plasmid.disclosure.overlap import Overlap, with_margins

LEAST = 11
SECRET = b"of this site"


def people(*parts: range) -> np.ndarray:
    names = (str(number).encode() for part in parts for number in part)
    return np.array([person_key(name, SECRET) for name in names], np.uint64)


EVERYBODY = people(range(20_000))


def some(source: np.random.Generator, number: int, *, of: np.ndarray = EVERYBODY) -> np.ndarray:
    return source.choice(of, number, replace=False)


def refused(guard: Overlap, cells: dict[str, np.ndarray]) -> bool:
    try:
        guard.check(cells, LEAST)
    except PolicyRefused as error:
        return error.code == "policy.overlap"
    return False


# -- pairs of sets ---------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    size=st.one_of(st.integers(LEAST, 60), st.integers(PREFIX, 3 * PREFIX)),
    left=st.integers(0, 2 * LEAST),
    joined=st.integers(0, 2 * LEAST),
    seed=st.integers(0, 999),
)
def test_every_pair_that_differs_by_too_few_is_found_and_no_other(
    size: int, left: int, joined: int, seed: int
) -> None:
    source = np.random.default_rng(seed)
    both = some(source, size + joined)
    old, new = both[:size], both[min(left, size) :]
    left = min(left, size)
    expected = left < LEAST and joined < LEAST and left + joined > 0 and size > left
    assert (conflict(sets_of({"0": old}), sets_of({"0": new}), LEAST) is not None) is expected
    assert (conflict(sets_of({"0": new}), sets_of({"0": old}), LEAST) is not None) is expected


@settings(max_examples=60, deadline=None)
@given(
    few=st.integers(0, LEAST + 2),
    cells=st.integers(2, 12),
    chosen=st.integers(1, 11),
    size=st.sampled_from([40, 700]),
    seed=st.integers(0, 99),
)
def test_every_union_of_cells_that_differs_by_too_few_is_found(
    few: int, cells: int, chosen: int, size: int, seed: int
) -> None:
    """An old set is some of the new cells together, without a few people."""
    source = np.random.default_rng(seed)
    given_people = some(source, cells * size)
    parts = np.split(given_people, cells)
    chosen = min(chosen, cells)
    old = np.concatenate(parts[:chosen])[few:]
    new = {str(number): part for number, part in enumerate(parts)}
    assert (conflict(sets_of({"0": old}), sets_of(new), LEAST) is not None) is (0 < few < LEAST)
    assert (conflict(sets_of(new), sets_of({"0": old}), LEAST) is not None) is (0 < few < LEAST)


def test_cells_of_which_few_are_on_either_side_are_tried_both_ways() -> None:
    """Two cells lie across the border of 40 people: with one in and the other out, few differ."""
    old = sets_of({"0": people(range(40))})
    new = {
        "0": people(range(25)),
        "1": people(range(25, 33), range(100, 105)),
        "2": people(range(33, 40), range(200, 209)),
    }
    assert conflict(old, sets_of(new), LEAST) == ("0", "")
    assert conflict(old, sets_of({"0": new["0"], "1": people(range(90, 120))}), LEAST) is None
    assert conflict(old, sets_of({"0": people(range(30))}), LEAST) == ("0", "0")


def test_the_same_people_cut_otherwise_and_a_repeat_conflict_in_nothing() -> None:
    source = np.random.default_rng(3)
    shape, nothing = (3, 4), np.zeros((3, 4), bool)
    one = with_margins(EVERYBODY, source.integers(0, 12, EVERYBODY.size), shape, nothing)
    other = with_margins(EVERYBODY, source.integers(0, 12, EVERYBODY.size), shape, nothing)
    assert conflict(sets_of(one), sets_of(other), LEAST) is None
    assert conflict(sets_of(one), sets_of(one), LEAST) is None


def test_a_table_and_its_margins_conflict_in_nothing_unless_few_are_missing() -> None:
    source = np.random.default_rng(4)
    rows, columns = source.integers(0, 2, 2000), source.integers(0, 3, 2000)
    keys = people(range(2000))
    table = with_margins(keys, rows * 3 + columns, (2, 3), np.zeros((2, 3), bool))
    margin = with_margins(keys, rows, (2,), np.zeros(2, bool))
    assert sorted(table) == [
        "*,*",
        "*,0",
        "*,1",
        "*,2",
        "0,*",
        "0,0",
        "0,1",
        "0,2",
        "1,*",
        "1,0",
        "1,1",
        "1,2",
    ]
    assert conflict(sets_of(table), sets_of(margin), LEAST) is None
    left_out = with_margins(keys[7:], (rows * 3 + columns)[7:], (2, 3), np.zeros((2, 3), bool))
    assert conflict(sets_of(left_out), sets_of(margin), LEAST) is not None


def test_margins_are_over_released_cells_and_a_person_counts_once() -> None:
    keys = np.array([5, 5, 6, 7], np.uint64)
    suppressed = np.array([[False, False], [True, False]])
    found = with_margins(keys, np.array([0, 1, 2, 3]), (2, 2), suppressed)
    told = {name: part.tolist() for name, part in found.items()}
    assert told == {
        "0,0": [5],
        "0,1": [5],
        "1,1": [7],
        "0,*": [5],
        "1,*": [7],
        "*,0": [5],
        "*,1": [5, 7],
        "*,*": [5, 7],
    }


def test_a_table_of_which_nothing_is_released_is_about_nobody() -> None:
    assert with_margins(people(range(3)), np.array([0, 0, 1]), (2,), np.ones(2, bool)) == {}


# -- what is kept ----------------------------------------------------------------------------------


def test_what_left_is_known_after_a_restart_and_under_no_name(tmp_path: Path) -> None:
    cohort = {"*": people(range(200)), "0": people(range(100)), "1": people(range(100, 200))}
    Overlap(tmp_path).claim("run-1", "ab" * 32, cohort, LEAST)
    guard = Overlap(tmp_path)
    assert refused(guard, {"*": people(range(199))})
    assert refused(guard, {"0": people(range(205))})
    assert refused(guard, {"0": people(range(3, 100))})
    assert refused(guard, {"0": people(range(1, 100), range(300, 301))})  # one swapped for another
    assert not refused(guard, {"0": people(range(80))})
    assert not refused(guard, {"0": people(range(100, 200))})
    assert not refused(guard, cohort)
    assert not refused(guard, {})
    with pytest.raises(PolicyRefused, match="fewer than 11 people") as caught:
        guard.claim("run-2", "cd" * 32, {"*": people(range(199))}, LEAST)
    assert "199" not in str(caught.value)
    assert len(list(tmp_path.glob("*.people"))) == 1  # what was refused is not kept
    (file,) = tmp_path.glob("*.people")
    assert file.stat().st_mode & 0o077 == 0
    assert b"run-1" in file.read_bytes()


def test_a_repeat_takes_no_room(tmp_path: Path) -> None:
    guard = Overlap(tmp_path)
    for run in ("run-1", "run-2"):
        guard.claim(run, "ab" * 32, {"0": people(range(50))}, LEAST)
    assert len(list(tmp_path.glob("*.people"))) == 1


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"x" + data, lambda _: b""])
def test_what_is_damaged_refuses_everything(tmp_path: Path, change: object) -> None:
    guard = Overlap(tmp_path)
    guard.keep("run-1", "ab" * 32, {"0": people(range(50))})
    (file,) = tmp_path.glob("*.people")
    file.write_bytes(change(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(StorageError) as caught:
        guard.check({"0": people(range(500, 600))}, LEAST)
    assert caught.value.code == "storage.lineage_damaged"
