"""Tables to bytes and back."""

from __future__ import annotations

import json

import pytest

from plasmid.core.errors import DataError
from plasmid.data.table import Table, concatenate

TABLE = Table({"s": ["CASS", None, "ü\n"], "x": [1.5, None, -2.0]}, 3, ("a notice",))


def test_bytes_and_back() -> None:
    assert Table.from_bytes(TABLE.to_bytes()) == TABLE
    assert Table.from_bytes(memoryview(TABLE.to_bytes())) == TABLE


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


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b'{"columns": {}, "rows": 0}',
        json.dumps({"columns": {"a": ["x"]}, "rows": 2, "notices": []}).encode(),
        json.dumps({"columns": {"a": [True]}, "rows": 1, "notices": []}).encode(),
        json.dumps({"columns": {"a": [[]]}, "rows": 1, "notices": []}).encode(),
        b'{"columns": {"a": [NaN]}, "rows": 1, "notices": []}',
        json.dumps({"columns": {}, "rows": True, "notices": []}).encode(),
        json.dumps({"columns": {}, "rows": 0, "notices": [1]}).encode(),
    ],
)
def test_bytes_that_are_no_table(content: bytes) -> None:
    with pytest.raises(DataError) as caught:
        Table.from_bytes(content)
    assert caught.value.code == "data.table_malformed"
