"""Login links open once, sessions end, and no form passes without its session's token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from plasmid.owner.page.sessions import Lifetimes, Sessions

START = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def move(self, **by: float) -> None:
        self.time += timedelta(**by)


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def sessions(clock: Hand) -> Sessions:
    return Sessions(clock=clock)


def test_a_link_opens_one_session(sessions: Sessions) -> None:
    secret = sessions.issue()
    assert len(secret) * 6 >= 256
    cookie = sessions.open(secret)
    assert cookie is not None
    assert sessions.find(cookie) is not None
    assert sessions.open(secret) is None
    assert sessions.open(cookie) is None
    assert sessions.find(secret) is None


def test_nothing_that_was_not_issued_opens(sessions: Sessions) -> None:
    sessions.issue()
    assert sessions.open("") is None
    assert sessions.open("x" * 43) is None
    assert sessions.find(None) is None
    assert sessions.find("x" * 43) is None


@pytest.mark.parametrize(("minutes", "opens"), [(9.9, True), (10, False), (-1, False)])
def test_a_link_expires(sessions: Sessions, clock: Hand, minutes: float, opens: bool) -> None:
    secret = sessions.issue()
    clock.move(minutes=minutes)
    assert (sessions.open(secret) is not None) is opens


def test_an_idle_session_ends_and_one_in_use_lasts(sessions: Sessions, clock: Hand) -> None:
    cookie = sessions.open(sessions.issue())
    for _ in range(4):
        clock.move(minutes=14)
        assert sessions.find(cookie) is not None
    clock.move(minutes=15)
    assert sessions.find(cookie) is None
    clock.move(minutes=-15)
    assert sessions.find(cookie) is None, "what has ended stays so"


def test_no_session_outlives_its_hours(clock: Hand) -> None:
    sessions = Sessions(clock=clock, lifetimes=Lifetimes(session=timedelta(minutes=20)))
    cookie = sessions.open(sessions.issue())
    clock.move(minutes=14)
    assert sessions.find(cookie) is not None
    clock.move(minutes=7)
    assert sessions.find(cookie) is None


def test_a_clock_set_back_ends_a_session(sessions: Sessions, clock: Hand) -> None:
    cookie = sessions.open(sessions.issue())
    clock.move(hours=-1)
    assert sessions.find(cookie) is None


def test_logging_out_ends_it(sessions: Sessions) -> None:
    cookie = sessions.open(sessions.issue())
    sessions.end(cookie)
    assert sessions.find(cookie) is None


def test_a_token_is_of_one_session(sessions: Sessions) -> None:
    first, second = (sessions.find(sessions.open(sessions.issue())) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.owns(first.token)
    assert not first.owns(second.token)
    assert not first.owns("")


def test_secrets_are_not_kept(sessions: Sessions) -> None:
    secret = sessions.issue()
    assert secret not in repr(vars(sessions))
    cookie = sessions.open(secret)
    assert str(cookie) not in repr(vars(sessions))
