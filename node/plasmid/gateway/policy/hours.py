"""The hours in which a site takes part, as its policy gives them.

Rules
-----
1. Times are those of the clock on the wall in ``zone`` (an IANA name, or UTC), so they follow its daylight
   saving. ``opens`` is included, ``closes`` is not.
2. ``closes`` at or before ``opens`` means the next day: the window belongs to the day on which it opens.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WallTime = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
_WEEK: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Hours(BaseModel):
    """One window of time on some days of the week; by default all day, every day, UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    zone: str = "UTC"
    days: Annotated[list[Weekday], Field(min_length=1, max_length=7)] = list(_WEEK)
    opens: WallTime = "00:00"
    closes: WallTime = "00:00"

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (OSError, ValueError, LookupError):
            what = f"no time zone {zone[:60]!r} on this machine; use an IANA name (Europe/Berlin) or UTC"
            raise ValueError(what) from None
        return zone

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.days)) != len(self.days):
            raise ValueError("a day is listed twice")
        return self

    def __str__(self) -> str:
        return f"{', '.join(self.days)} from {self.opens} to {self.closes} ({self.zone})"

    def open_at(self, moment: datetime) -> bool:
        """Return whether *moment* lies within the hours."""
        today = moment.astimezone(ZoneInfo(self.zone)).date()
        return any(
            start <= moment < end
            for start, end in map(self._window, (today - timedelta(days=1), today))
            if self._opens_on(start)
        )

    def next_opening(self, moment: datetime) -> datetime:
        """Return when the hours next begin, UTC, after *moment*."""
        today = moment.astimezone(ZoneInfo(self.zone)).date()
        starts = (self._window(today + timedelta(days=ahead))[0] for ahead in range(9))
        return next(start for start in starts if start > moment and self._opens_on(start)).astimezone(UTC)

    def _opens_on(self, start: datetime) -> bool:
        return _WEEK[start.astimezone(ZoneInfo(self.zone)).weekday()] in self.days

    def _window(self, day: date) -> tuple[datetime, datetime]:
        zone = ZoneInfo(self.zone)
        opens, closes = time.fromisoformat(self.opens), time.fromisoformat(self.closes)
        start = datetime.combine(day, opens, zone)
        end = datetime.combine(start.date() + timedelta(days=closes <= opens), closes, zone)
        # Compared in UTC: two times of one zone are compared by their wall clocks alone.
        return start.astimezone(UTC), end.astimezone(UTC)
