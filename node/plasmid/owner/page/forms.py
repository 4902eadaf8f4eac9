"""What a page is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plasmid.core.errors import UsageError
from plasmid.gateway.home import SiteHome


@dataclass(frozen=True)
class Asked:
    """A request of somebody who is logged in."""

    home: SiteHome
    path: Mapping[str, str]
    query: Mapping[str, str]
    form: Mapping[str, str]

    def field(self, name: str, *, limit: int = 400) -> str:
        """Return a field of the form, without white space around it. Raises UsageError (``usage.form``)."""
        value = self.form.get(name, "").strip()
        if not 0 < len(value) <= limit:
            raise UsageError(
                "usage.form",
                f"the field {name!r} has {len(value)} characters, not 1 to {limit}.",
                "Go back and fill it in.",
            )
        return value


@dataclass(frozen=True)
class Shown:
    """A page: its template and what goes into it."""

    template: str
    title: str
    values: dict[str, Any] = field(default_factory=dict)
    status: int = 200


Page = Callable[[Asked], Shown]
Action = Callable[[Asked], str]
"""Does what the form asks for and returns the path of the page to go on with."""


def problem(status: int, message: str, *, hint: str = "", code: str = "", back: str | None = None) -> Shown:
    """Return the page that says why something did not happen."""
    values = {"message": message, "hint": hint, "code": code, "bad": True, "back": back or "/"}
    return Shown("message.html", "This did not happen", values, status)
