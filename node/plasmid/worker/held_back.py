"""The rows that a site holds back for the whole run, so that each round's state can be judged by them.

Rules
-----
1. Rows stand in the order of a hash of their content, so that the first ones are a random part, and the same
   in every run on the same rows. Where the recipe says which rows are one person's, people are held back
   whole.
2. Judging takes at most :data:`MOST_ROWS` rows or people: more of them would cost more than they tell.
"""

from __future__ import annotations

from plasmid.data.table import Chosen, Drawn, Table

MOST_ROWS = 4096


def parted(table: Drawn, share: float, patient: str | None) -> tuple[Drawn, Table]:
    """Return what is trained on, and the held back rows: a *share* of *table*, rounded down.

    Parameters
    ----------
    patient
        The column that says which rows are one person's; None, or no column of *table*: each row is one.
    """
    whose = table.groups(patient) if patient is not None and patient in table.names else None
    people = table.rows if whose is None else len(whose)
    count = min(int(share * people), MOST_ROWS)
    held = range(count) if whose is None else sorted(int(row) for rows in whose[:count] for row in rows)
    out = set(held)
    kept = [row for row in range(table.rows) if row not in out]
    rest: Drawn = table.subset(kept) if isinstance(table, Table) else Chosen(table, kept)
    return rest, table.subset(held)
