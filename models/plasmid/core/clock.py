"""The time, in one spelling: UTC, whole seconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

Clock = Callable[[], datetime]
"""Returns an aware datetime; what needs the time takes one, so that a test can set it."""

FORMAT = "%Y-%m-%dT%H:%M:%SZ"
PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(UTC)


def stamp(time: datetime) -> str:
    """Return *time* as ``2026-11-25T10:00:00Z``."""
    return time.astimezone(UTC).strftime(FORMAT)


def parse(text: str) -> datetime:
    """Return the time that :func:`stamp` wrote. Raises ValueError."""
    return datetime.strptime(text, FORMAT).replace(tzinfo=UTC)


def _checked(text: str) -> str:
    parse(text)
    return text


Stamp = Annotated[str, StringConstraints(pattern=PATTERN), AfterValidator(_checked)]
"""A field that holds what :func:`stamp` writes; there is no thirteenth month."""
