"""The hours in which a site takes part: walls' clocks, daylight saving, windows over midnight."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plasmid.core.clock import parse, stamp
from plasmid.gateway.policy.hours import Hours

OFFICE = {
    "zone": "Europe/Berlin",
    "days": ["mon", "tue", "wed", "thu", "fri"],
    "opens": "08:00",
    "closes": "18:00",
}


def hours(**changes: Any) -> Hours:
    return Hours.model_validate(OFFICE | changes)


@pytest.mark.parametrize(
    ("moment", "open_then", "following"),
    [
        ("2026-11-25T07:00:00Z", True, "2026-11-26T07:00:00Z"),  # a Wednesday in winter: Berlin is UTC+1
        ("2026-11-25T06:59:59Z", False, "2026-11-25T07:00:00Z"),
        ("2026-11-25T16:59:59Z", True, "2026-11-26T07:00:00Z"),
        ("2026-11-25T17:00:00Z", False, "2026-11-26T07:00:00Z"),
        ("2026-11-28T10:00:00Z", False, "2026-11-30T07:00:00Z"),  # a Saturday
        ("2026-07-01T06:00:00Z", True, "2026-07-02T06:00:00Z"),  # in summer UTC+2
        (
            "2026-03-27T17:00:00Z",
            False,
            "2026-03-30T06:00:00Z",
        ),  # summer time begins on the Sunday
    ],
)
def test_the_clock_on_the_wall_decides(moment: str, open_then: bool, following: str) -> None:
    assert hours().open_at(parse(moment)) is open_then
    assert stamp(hours().next_opening(parse(moment))) == following


@pytest.mark.parametrize(
    ("moment", "open_then"),
    [
        ("2026-11-27T22:00:00Z", True),  # Friday night
        ("2026-11-28T05:59:59Z", True),  # still Friday's window
        ("2026-11-28T06:00:00Z", False),
        ("2026-11-28T22:30:00Z", False),  # Saturday opens nothing
        ("2026-11-27T05:00:00Z", False),  # nor did Thursday
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_opens(moment: str, open_then: bool) -> None:
    night = hours(zone="UTC", days=["fri"], opens="22:00", closes="06:00")
    assert night.open_at(parse(moment)) is open_then


def test_a_day_of_another_length_has_its_whole_window() -> None:
    """On 29 March 2026 Berlin's night is an hour shorter."""
    night = hours(days=["sat"], opens="22:00", closes="06:00")
    assert night.open_at(parse("2026-03-29T03:59:59Z"))
    assert not night.open_at(parse("2026-03-29T04:00:00Z"))


def test_by_default_a_site_is_always_open() -> None:
    for hour in range(24 * 8):
        assert Hours().open_at(datetime(2026, 11, 25, tzinfo=UTC) + timedelta(hours=hour))


@pytest.mark.parametrize(
    "changes",
    [
        {"zone": "Europe/Atlantis"},
        {"zone": "../../etc/passwd"},
        {"zone": ""},
        {"days": []},
        {"days": ["mon", "mon"]},
        {"days": ["monday"]},
        {"opens": "8:00"},
        {"opens": "24:00"},
        {"closes": "18:00:00"},
        {"until": "18:00"},
    ],
)
def test_hours_that_cannot_be_read_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        hours(**changes)


@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
    st.integers(0, 23),
    st.integers(0, 23),
    st.sets(st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), min_size=1),
)
def test_at_its_next_opening_a_site_is_open(
    naive: datetime, zone: str, opens: int, closes: int, days: set[str]
) -> None:
    moment = naive.replace(tzinfo=UTC)
    window = hours(zone=zone, days=sorted(days), opens=f"{opens:02}:00", closes=f"{closes:02}:00")
    following = window.next_opening(moment)
    assert moment < following <= moment + timedelta(days=8, hours=1)
    assert window.open_at(following)
    assert not window.open_at(following - timedelta(seconds=1)) or closes == opens or len(days) > 1
