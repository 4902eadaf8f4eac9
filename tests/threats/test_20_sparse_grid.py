"""Row 20. Attack: a fine time grid, in which the events of one person stand alone.

Must hold: the grid is suppressed where it is sparse, or has to be coarser.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plasmid.data.table import Table
from plasmid.recipes.counts import CountsDocument
from support.federation.questions import OFF, Questions

PEOPLE = 60
VICTIM_DAYS = (101.0, 131.0, 162.0, 190.0, 221.0)


def events() -> Table:
    """Return events of many in the first hundred days, and of one person in those that follow."""
    rows = [
        (f"p{person}", float((7 * person + 13 * event) % 100))
        for person in range(PEOPLE)
        for event in range(6)
    ]
    rows += [("victim", day) for day in VICTIM_DAYS]
    return Table({"who": [who for who, _ in rows], "day": [day for _, day in rows]}, len(rows))


def grid(step: float, steps: int, **values: Any) -> CountsDocument:
    axis = {"type": "grid", "column": "day", "start": 0, "step": step, "steps": steps}
    given = {"computation": "counts", "name": "events", "axes": [axis], "missing": "skip", "patient": "who"}
    return CountsDocument.model_validate({**given, "max_rows": 1000, **values})


def test_control_a_fine_grid_tells_when_one_person_came(tmp_path: Path) -> None:
    told = Questions(tmp_path, disclosure=OFF).ask(grid(1.0, 250), events())
    alone = [day for day, count in enumerate(told["counts"]) if day >= 100 and count]
    assert alone == [int(day) for day in VICTIM_DAYS]


def test_more_cells_than_a_third_of_the_people_are_suppressed_altogether(tmp_path: Path) -> None:
    told = Questions(tmp_path).ask(grid(1.0, 250), events())
    assert set(told["counts"]) == {0}
    assert set(told["suppressed_at"]) == {4}


def test_people_are_counted_not_their_events(tmp_path: Path) -> None:
    """In a coarser grid the victim's five events are in cells of their own, one person's."""
    told = Questions(tmp_path).ask(grid(25.0, 10), events())
    assert [count > 0 for count in told["counts"][:4]].count(True) >= 2
    assert told["counts"][4:] == [0] * 6
    sparse = [told["suppressed_at"][int(day // 25)] for day in VICTIM_DAYS]
    assert sparse == [4] * len(VICTIM_DAYS)


def test_many_events_of_one_person_in_one_cell_are_still_one_person(tmp_path: Path) -> None:
    rows = [("victim", 130.0 + event) for event in range(20)]
    table = Table(
        {
            "who": [*events().columns["who"], *(who for who, _ in rows)],
            "day": [*events().columns["day"], *(day for _, day in rows)],
        },
        events().rows + 20,
    )
    told = Questions(tmp_path).ask(grid(125.0, 2), table)
    control = Questions(tmp_path / "control", disclosure=OFF).ask(grid(125.0, 2), table)
    assert control["counts"] == [4 * (6 * PEOPLE + 1), 4 * 24]
    assert told["suppressed_at"][1] == 4
    assert told["counts"][1] == 0
