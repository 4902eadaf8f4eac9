"""In which order repositories are listed, and where in it a page ends.

Rules
-----
1. A cursor holds the last repository's place in the order, so that a page costs the same wherever it is.
2. A value that no index has (``flat``) keeps a database from walking the order's index over everything.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, tuple_

from plasmid.core.errors import HubError

Sort = Literal["updated", "created", "downloads", "metric", "epsilon", "name"]
_MOST = 2**62
Place = tuple[Any, int]
"""A value and a key."""


@dataclass(frozen=True)
class Order:
    """An order: by a column, then by key."""

    name: Sort
    down: bool

    @classmethod
    def of(cls, name: Sort) -> Order:
        """Return the order called *name*. Raises HubError (``hub.sort``)."""
        if name not in ("updated", "created", "downloads", "metric", "epsilon", "name"):
            raise HubError(
                "hub.sort",
                f"there is no order {name!r}.",
                "Sort by updated, created, downloads, metric, epsilon or name.",
            )
        return cls(name, down=name not in ("name", "epsilon"))

    @property
    def column(self) -> str:
        """The column's name."""
        return "folded" if self.name == "name" else self.name

    def value(self, rows: Any, *, flat: bool = False) -> Any:
        """Return the column of *rows*; with *flat* as a value that no index has."""
        value = getattr(rows, self.column)
        return value if not flat else value + "" if self.name == "name" else value + 0

    def by(self, rows: Any, *, flat: bool = False) -> list[Any]:
        """Return what *rows* are sorted by."""
        parts = (self.value(rows, flat=flat), rows.key)
        return [part.desc() if self.down else part.asc() for part in parts]

    def after(self, rows: Any, place: Place | None, *, flat: bool = False) -> list[ColumnElement[bool]]:
        """Return the conditions of what is in the order, and comes after *place*."""
        value = self.value(rows, flat=flat)
        conditions = [value.is_not(None)] if self.name in ("metric", "epsilon") else []
        if place is not None:
            here = tuple_(value, rows.key)
            conditions.append(here < place if self.down else here > place)
        return conditions

    def write(self, row: Any) -> str:
        """Return the cursor of a page that ends with *row*."""
        text = json.dumps([self.name, getattr(row, self.column), row.key])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def read(self, cursor: str) -> Place:
        """Return where *cursor* ends. Raises HubError (``hub.cursor``)."""
        try:
            name, value, key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        except (ValueError, TypeError):
            name = value = key = None
        numbers = [part for part in (value, key) if isinstance(part, int | float)]
        if (
            name != self.name
            or not isinstance(value, str if self.name == "name" else int | float)
            or not isinstance(key, int)
            or any(abs(number) > _MOST for number in numbers)
        ):
            raise HubError(
                "hub.cursor", "the cursor is none of this list's.", "Begin again at the first page."
            )
        return value, key
