"""What is held back: whole people, the same in memory and in a file, and never trained on."""

from __future__ import annotations

import pytest

from plasmid.data.table import Chosen, Table
from plasmid.worker.held_back import parted

WHO = ["x", "y", "x", None, "z", "y", None, "z", "w", "x"]
TABLE = Table({"row": [float(row) for row in range(10)], "who": list(WHO)}, 10)


def test_rows_are_held_back_from_the_first_on() -> None:
    rest, held = parted(TABLE, 0.25, None)
    assert held.columns["row"] == [0.0, 1.0]
    assert rest.subset(range(rest.rows)).columns["row"] == [float(row) for row in range(2, 10)]
    assert parted(TABLE, 0.05, None)[1].rows == 0


def test_people_are_held_back_whole() -> None:
    rest, held = parted(TABLE, 0.34, "who")  # two of x, y, two without a name, z and w
    assert held.columns["who"] == ["x", "y", "x", "y", "x"]
    assert rest.subset(range(rest.rows)).columns["row"] == [3.0, 4.0, 6.0, 7.0, 8.0]


@pytest.mark.parametrize("patient", [None, "who"])
def test_rows_that_stay_where_they_are_read_as_those_in_memory(patient: str | None) -> None:
    rest, held = parted(TABLE, 0.34, patient)
    kept = [row for row in range(10) if float(row) not in held.columns["row"]]
    chosen = Chosen(TABLE, kept)
    assert (chosen.rows, chosen.names) == (rest.rows, rest.names)
    assert chosen.subset([1, 0]).columns == rest.subset([1, 0]).columns
    assert [list(rows) for rows in chosen.groups("who")] == rest.groups("who")
