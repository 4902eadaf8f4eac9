"""Mailboxes: numbered, kept until acknowledged; and waits that end for a stated reason."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from plasmid.core.errors import PlasmidError, ProtocolError
from plasmid.link import switchboard as switchboard_module
from plasmid.link.switchboard import MAX_WAITING_MESSAGES, Switchboard
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Contribution, End, Failed, Heartbeat, Signed, sign

D = "d" * 64
COORDINATOR = Identity.generate("coordinator")
IDENTITIES = {site: Identity.generate(site) for site in ("alpha", "beta")}
SITES = list(IDENTITIES)


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


def go(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


@pytest.fixture
def board() -> Switchboard:
    made = Switchboard()
    made.open_run("run-1", ["alpha", "beta", "gamma"], 9)
    return made


def say(board: Switchboard, site: str, message: Any) -> None:
    board.take(site, message, sign(IDENTITIES[site], message))


def contribution(site: str, round_: int = 1, body: str = D) -> Contribution:
    return Contribution(run="run-1", site=site, round=round_, slot=0, manifest=D, body=body, body_bytes=1)


def pulse(site: str, step: int = 1) -> Heartbeat:
    return Heartbeat(run="run-1", site=site, round=1, step=step, steps=6)


def letter(number: int) -> Signed:
    return sign(COORDINATOR, End(run="run-1", state=str(number)))


def collect(board: Switchboard, **settings: Any) -> Coroutine[Any, Any, dict[str, Signed]]:
    return board.collect("run-1", "contribution", SITES, **{"round_": 1, "timeout_s": 10.0} | settings)


# -- to sites --------------------------------------------------------------------------------------


def test_messages_are_numbered_by_site_and_kept_until_acknowledged(board: Switchboard) -> None:
    async def scene() -> None:
        for number in range(3):
            board.send("alpha", letter(number))
        board.send("beta", letter(9))

        async def numbers(after: int, site: str = "alpha") -> list[tuple[int, str]]:
            got = await board.receive(site, board.boot, after, 0.0)
            return [(seq, signed.payload["state"]) for seq, signed in got]

        assert await numbers(0) == [(1, "0"), (2, "1"), (3, "2")]
        assert await numbers(0) == [(1, "0"), (2, "1"), (3, "2")]  # a lost answer is repeated
        assert await numbers(2) == [(3, "2")]
        assert await numbers(0) == [(3, "2")]
        assert await numbers(0, "beta") == [(1, "9")]

    go(scene())


def test_after_a_restart_numbering_starts_again(board: Switchboard) -> None:
    async def scene() -> None:
        again = Switchboard()
        assert again.boot != board.boot
        again.send("alpha", letter(0))
        # the site has seen number 7 of the server that was: it must not miss number 1 of this one
        assert [seq for seq, _ in await again.receive("alpha", board.boot, 7, 0.0)] == [1]
        assert await again.receive("alpha", again.boot, 7, 0.0) == []

    go(scene())


def test_a_poll_waits_for_a_message(board: Switchboard) -> None:
    async def scene() -> None:
        poll = asyncio.create_task(board.receive("alpha", board.boot, 0, 15.0))
        await asyncio.sleep(0.01)
        assert not poll.done()
        board.send("beta", letter(1))
        await asyncio.sleep(0.01)
        assert not poll.done()
        board.send("alpha", letter(2))
        assert [signed.payload["state"] for _, signed in await poll] == ["2"]
        assert board.online() == ["alpha"]

    go(scene())


def test_a_poll_without_a_message_ends_in_time(board: Switchboard) -> None:
    assert go(board.receive("alpha", board.boot, 0, 0.05)) == []


def test_a_site_that_does_not_poll_fills_no_memory(board: Switchboard) -> None:
    for number in range(MAX_WAITING_MESSAGES + 50):
        board.send("alpha", letter(number) if number % 500 == 0 else letter_zero)
    got = go(board.receive("alpha", board.boot, 0, 0.0))
    assert len(got) == MAX_WAITING_MESSAGES
    assert [got[0][0], got[-1][0]] == [51, MAX_WAITING_MESSAGES + 50]


letter_zero = letter(0)


# -- from sites ------------------------------------------------------------------------------------


def test_what_all_sites_said_is_collected(board: Switchboard) -> None:
    async def scene() -> None:
        wait = asyncio.create_task(collect(board))
        await asyncio.sleep(0.01)
        say(board, "alpha", contribution("alpha"))
        say(board, "beta", contribution("beta", round_=2))  # another round
        await asyncio.sleep(0.01)
        assert not wait.done()
        say(board, "beta", contribution("beta"))
        got = await wait
        assert {site: signed.signer for site, signed in got.items()} == {"alpha": "alpha", "beta": "beta"}
        assert list((await collect(board)).values()) == list(got.values())

    go(scene())


def test_the_same_bytes_change_nothing_and_others_are_refused(board: Switchboard) -> None:
    for _ in range(3):
        say(board, "alpha", contribution("alpha"))
    with refusal("protocol.replay"):
        say(board, "alpha", contribution("alpha", body="e" * 64))
    say(board, "beta", contribution("beta"))
    assert go(collect(board))["alpha"].payload["body"] == D


def test_a_run_that_is_not_open_takes_nothing(board: Switchboard) -> None:
    board.close_run("run-1")
    for message in (contribution("alpha"), pulse("alpha")):
        with refusal("protocol.replay"):
            say(board, "alpha", message)
    with refusal("run.stopped"):
        go(collect(board))


def test_a_site_that_fails_ends_the_wait_at_once(board: Switchboard) -> None:
    async def scene() -> None:
        wait = asyncio.create_task(collect(board, timeout_s=1000.0))
        await asyncio.sleep(0.01)
        say(
            board,
            "beta",
            Failed(run="run-1", site="beta", code="run.not_finite", sentence="Training diverged."),
        )
        with refusal("run.site_failed") as caught:
            await wait
        assert str(caught.value) == (
            "the site beta cannot go on: Training diverged. [run.not_finite] "
            "Its owner finds the details in the log of beta."
        )

    go(scene())


def test_a_deadline_names_who_is_missing(board: Switchboard) -> None:
    say(board, "alpha", contribution("alpha"))
    with refusal("run.deadline") as caught:
        go(collect(board, timeout_s=0.05))
    assert caught.value.message == "beta did not answer with contribution within 0 s."


def test_a_site_that_falls_silent_ends_the_wait(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchboard_module, "SILENCE_S", 0.2)

    async def scene() -> None:
        say(board, "alpha", pulse("alpha"))
        say(board, "beta", pulse("beta"))
        wait = asyncio.create_task(collect(board))
        while not wait.done():
            say(board, "alpha", pulse("alpha"))
            await asyncio.sleep(0.02)
        with refusal("run.site_lost") as caught:
            await wait
        assert caught.value.message == "the site beta has been silent for 0 s."

    go(scene())


def test_a_heartbeat_keeps_a_slow_site(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchboard_module, "SILENCE_S", 1.0)

    async def scene() -> None:
        wait = asyncio.create_task(collect(board))
        for step in range(15):
            await asyncio.sleep(0.1)
            for site in SITES:
                say(board, site, pulse(site, step))
        assert not wait.done()
        assert board.pulses("run-1") == {"alpha": (1, 14, 6), "beta": (1, 14, 6)}
        for site in SITES:
            say(board, site, contribution(site))
        assert set(await wait) == set(SITES)

    go(scene())


def test_stop_ends_every_wait_at_once(board: Switchboard) -> None:
    async def scene() -> None:
        waits = [asyncio.create_task(collect(board, watch=watch)) for watch in (True, False)]
        await asyncio.sleep(0.01)
        board.stop_run("run-1")
        board.stop_run("run-2")
        for wait in waits:
            with refusal("run.stopped"):
                await wait
        with refusal("run.stopped"):
            await collect(board)

    go(scene())


def test_without_watching_the_answers_that_came_are_returned(board: Switchboard) -> None:
    say(board, "alpha", contribution("alpha"))
    assert set(go(collect(board, timeout_s=0.05, watch=False))) == {"alpha"}


def test_without_watching_a_failed_site_is_not_waited_for(board: Switchboard) -> None:
    say(board, "alpha", contribution("alpha"))
    say(board, "beta", Failed(run="run-1", site="beta", code="site.failed", sentence=""))
    assert set(go(collect(board, timeout_s=1000.0, watch=False))) == {"alpha"}


def test_what_an_uninvited_site_says_changes_nothing(board: Switchboard) -> None:
    mallory = Identity.generate("mallory")
    for message in (
        contribution("mallory"),
        Failed(run="run-1", site="mallory", code="site.failed", sentence=""),
    ):
        with pytest.raises(ProtocolError, match="not for mallory"):
            board.take("mallory", message, sign(mallory, message))
    for site in SITES:
        say(board, site, contribution(site))
    assert set(go(collect(board))) == set(SITES)
