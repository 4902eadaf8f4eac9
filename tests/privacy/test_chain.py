"""Lines of the ledger: canonical, chained, and a torn end told from damage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.gateway.ledger_chain import GENESIS, DamagedError, Head, follow, line, split, verify

TIME = "2026-11-24T12:00:00.000+00:00"


def chained(*events: dict[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    head: Head = (0, GENESIS)
    for event in events:
        entries.append(follow(head, event, time=TIME))
        head = (entries[-1]["counter"], entries[-1]["digest"])
    return entries


ONE, TWO = chained({"event": "reserve", "epsilon": 0.5}, {"event": "spend", "run": "é"})
CONTENT = line(ONE) + line(TWO)


def test_the_first_entry_is_pinned() -> None:
    digest = "fccefbd319f3ecbbfb294b39d2a013b16e53fff9324cc15ab983d7822aec9078"
    assert line(ONE).decode() == (
        f'{{"counter":1,"digest":"{digest}","epsilon":0.5,"event":"reserve",'
        f'"previous":"{GENESIS}","time":"{TIME}"}}\n'
    )


def test_entries_follow_one_another() -> None:
    lines, whole = split(CONTENT)
    assert whole == CONTENT
    assert verify(lines[0], (0, GENESIS)) == ONE
    assert verify(lines[1], (1, ONE["digest"])) == TWO
    for head in ((0, GENESIS), (1, GENESIS), (2, ONE["digest"]), (0, ONE["digest"])):
        with pytest.raises(DamagedError):
            verify(lines[1], head)


def test_only_a_carry_entry_leaps() -> None:
    leap = follow((1, ONE["digest"]), {"event": "carry", "populations": {}}, time=TIME, least=500)
    assert leap["counter"] == 500
    assert verify(line(leap)[:-1], (1, ONE["digest"])) == leap
    other = follow((1, ONE["digest"]), {"event": "spend", "run": "a"}, time=TIME, least=500)
    with pytest.raises(DamagedError):
        verify(line(other)[:-1], (1, ONE["digest"]))
    back = follow((499, ONE["digest"]), {"event": "carry", "populations": {}}, time=TIME)
    with pytest.raises(DamagedError):
        verify(line(back)[:-1], (600, ONE["digest"]))


@given(st.binary(max_size=60))
def test_whatever_follows_the_last_newline_no_acknowledged_line_is_lost(end: bytes) -> None:
    try:
        lines, whole = split(CONTENT + end)
    except DamagedError:
        return
    assert whole.startswith(CONTENT)
    assert lines[:2] == CONTENT.splitlines()


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    try:
        for text in split(content)[0]:
            verify(text, (0, GENESIS))
    except DamagedError:
        pass


def test_the_same_entry_written_otherwise_is_damage() -> None:
    text = line(ONE)[:-1]
    for other in (
        text.replace(b":0.5", b":5e-1"),
        text.replace(b'"counter":1', b'"counter": 1'),
        text + b" ",
    ):
        with pytest.raises(DamagedError):
            verify(other, (0, GENESIS))
    with pytest.raises(DamagedError):
        verify(b"[" * 100_000, (0, GENESIS))
