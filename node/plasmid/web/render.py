"""Templates to HTML: Jinja with escaping on, and how times, sizes and numbers are written for people.

Rules
-----
1. Everything is escaped; an undefined name is an error. The one style sheet is the only text that isn't.
2. Times are UTC to the second, sizes have their unit, numbers at most four significant digits.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).with_name("templates")
_FACT_CHARACTERS = 2000


class Renderer:
    """Renders the templates of one site's page.

    Parameters
    ----------
    base
        The path that every address of the page begins with.
    pages
        (path, name) of the pages of the navigation.
    """

    def __init__(self, *, site: str, base: str, pages: Sequence[tuple[str, str]]) -> None:
        style = (_FOLDER / "style.css").read_text(encoding="utf-8")
        self.style_digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "utc": utc, "size": size, "number": number, "percent": percent, "fact": fact
        }  # fmt: skip
        self._environment.globals |= {"site": site, "base": base, "pages": pages, "style": Markup(style)}  # noqa: S704 - a file of this package

    def page(self, template: str, *, title: str, here: str, token: str | None, values: dict[str, Any]) -> str:
        """Return a page. *token* goes into its forms; None for a page without a session."""
        field = Markup('<input type="hidden" name="csrf" value="{}">').format(token or "")
        return self._environment.get_template(template).render(
            **values, title=title, here=here, session=token is not None, csrf=lambda: field
        )


def utc(time: str | datetime) -> str:
    """Return a moment as ``2026-11-25 10:00:00``, in UTC."""
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Return a number of bytes with a decimal unit."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{count:,} bytes" if unit == "bytes" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError


def number(value: float) -> str:
    """Return *value* with at most four significant digits."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4g}"


def percent(value: float) -> str:
    """Return a part of 1 as a percentage."""
    return f"{100 * value:.3g} %"


def fact(value: Any) -> str:
    """Return a value of a log entry as text, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _FACT_CHARACTERS else f"{text[:_FACT_CHARACTERS]}…"
