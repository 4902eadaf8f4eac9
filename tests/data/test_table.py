"""Tables in memory: parts of them, joined ones, whose rows they are."""

from __future__ import annotations

import pytest

from plasmid.data.table import Table, concatenate

TABLE = Table({"s": ["CASS", None, "ü\n"], "x": [1.5, None, -2.0]}, 3, ("a notice",))


def test_subset_and_concatenate() -> None:
    assert TABLE.subset([2, 0, 2]).columns == {"s": ["ü\n", "CASS", "ü\n"], "x": [-2.0, 1.5, -2.0]}
    both = concatenate([TABLE, TABLE.subset([1])])
    assert both.rows == 4
    assert both.columns["x"] == [1.5, None, -2.0, None]
    with pytest.raises(ValueError, match="same columns"):
        concatenate([TABLE, Table({"s": []}, 0)])
    with pytest.raises(ValueError, match="same columns"):
        concatenate([])


def test_rows_of_one_person_are_together_and_a_row_without_one_is_alone() -> None:
    table = Table({"who": ["b", "a", None, "b", None]}, 5)
    assert table.groups("who") == [[0, 3], [1], [2], [4]]
    assert Table({"who": []}, 0).groups("who") == []


def test_columns_of_unequal_length_are_no_table() -> None:
    with pytest.raises(ValueError, match="equal length"):
        Table({"a": ["x"], "b": []}, 1)


def test_a_table_does_not_show_its_cells() -> None:
    assert repr(TABLE) == "Table(columns=['s', 'x'], rows=3)"
