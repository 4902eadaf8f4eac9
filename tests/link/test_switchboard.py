"""Mailboxes: numbered, kept until acknowledged; and waits that end for a stated reason."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.core.errors import PlasmidError, ProtocolError
from plasmid.link import switchboard as switchboard_module
from plasmid.link.switchboard import MAX_WAITING_MESSAGES, SILENCE_S, Collected, Switchboard
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admission, End, Failed, Heartbeat, Signed, sign
from plasmid.secagg.statements import Contribution

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
    made.open_run("run-1", ["alpha", "beta", "gamma"])
    made.move_on("run-1", 1, 3)
    return made


def say(board: Switchboard, site: str, message: Any) -> None:
    board.take(site, message, sign(IDENTITIES[site], message))


def contribution(site: str, *, epoch: int = 1, slot: int = 3, body: str = D) -> Contribution:
    return Contribution(
        run="run-1",
        site=site,
        epoch=epoch,
        round=1,
        slot=slot,
        manifest=D,
        body=body,
        body_bytes=1,
        tag=bytes(8),
        ledger_counter=0,
        ledger_head=D,
        isolation="none",
    )


def pulse(site: str, step: int = 1) -> Heartbeat:
    return Heartbeat(run="run-1", site=site, round=1, step=step, steps=6)


def letter(number: int) -> Signed:
    return sign(COORDINATOR, End(run="run-1", state=str(number)))


def failed(site: str, code: str = "site.failed") -> Failed:
    return Failed(run="run-1", site=site, code=code, sentence="It could not.")


def collect(board: Switchboard, **settings: Any) -> Coroutine[Any, Any, Collected]:
    return board.collect("run-1", "contribution", SITES, **{"timeout_s": 10.0} | settings)


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


def test_a_first_poll_is_answered_at_once(board: Switchboard) -> None:
    """So that a site knows that it is heard, and says what needs an answer no sooner."""

    async def scene() -> None:
        assert await asyncio.wait_for(board.receive("alpha", "", 0, 600.0), 5.0) == []
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
        await asyncio.sleep(0.01)
        assert not wait.done()
        say(board, "beta", contribution("beta"))
        came = await wait
        assert {site: signed.signer for site, signed in came.got.items()} == {
            "alpha": "alpha",
            "beta": "beta",
        }
        assert (came.missing, came.gone) == ({}, frozenset())
        assert (await collect(board)).got == came.got

    go(scene())


def test_enough_is_enough(board: Switchboard) -> None:
    say(board, "beta", contribution("beta"))
    came = go(collect(board, enough=1, timeout_s=1000.0))
    assert list(came.got) == ["beta"]
    assert (came.missing, came.gone) == ({"alpha": "it was not waited for"}, frozenset())


def test_the_same_bytes_change_nothing_and_others_are_refused(board: Switchboard) -> None:
    for _ in range(3):
        say(board, "alpha", contribution("alpha"))
    with refusal("protocol.replay"):
        say(board, "alpha", contribution("alpha", body="e" * 64))
    say(board, "beta", contribution("beta"))
    assert go(collect(board)).got["alpha"].payload["body"] == D


@pytest.mark.parametrize(("epoch", "slot"), [(1, 2), (1, 4), (2, 3), (2, 0)])
def test_what_belongs_to_another_place_comes_too_late(board: Switchboard, epoch: int, slot: int) -> None:
    with refusal("protocol.late") as caught:
        say(board, "alpha", contribution("alpha", epoch=epoch, slot=slot))
    assert caught.value.message == f"contribution of alpha is for ({epoch}, {slot}), the run is at (1, 3)."
    assert go(collect(board, timeout_s=0.05)).got == {}


def test_moving_on_drops_what_was_said_and_keeps_who_failed(board: Switchboard) -> None:
    say(board, "alpha", contribution("alpha"))
    say(board, "beta", failed("beta"))
    board.move_on("run-1", 2, 0)
    board.move_on("run-9", 2, 0)  # no such run
    came = go(collect(board, timeout_s=0.05))
    assert came.missing == {
        "alpha": "it did not answer within 0 s",
        "beta": "It could not. [site.failed]",
    }
    assert came.gone == {"beta"}
    say(board, "alpha", contribution("alpha", epoch=2, slot=0, body="e" * 64))  # not a second answer
    assert list(go(collect(board)).got) == ["alpha"]


def test_a_message_without_a_place_belongs_to_the_present_one(board: Switchboard) -> None:
    board.move_on("run-1", 0, 0)
    say(board, "alpha", Admission(run="run-1", site="alpha", accepted=True))
    assert list(go(board.collect("run-1", "admission", ["alpha"], timeout_s=5.0)).got) == ["alpha"]


def test_a_run_that_is_not_open_takes_nothing(board: Switchboard) -> None:
    board.close_run("run-1")
    for message in (contribution("alpha"), pulse("alpha")):
        with refusal("protocol.replay"):
            say(board, "alpha", message)
    with refusal("run.stopped"):
        go(collect(board))


def test_a_site_that_fails_is_not_waited_for(board: Switchboard) -> None:
    async def scene() -> None:
        wait = asyncio.create_task(collect(board, timeout_s=1000.0))
        say(board, "alpha", contribution("alpha"))
        await asyncio.sleep(0.01)
        say(board, "beta", failed("beta", "run.not_finite"))
        say(board, "beta", failed("beta", "site.failed"))  # the first reason counts
        came = await wait
        assert list(came.got) == ["alpha"]
        assert came.missing == {"beta": "It could not. [run.not_finite]"}
        assert came.gone == {"beta"}

    go(scene())


def test_a_failure_does_not_undo_what_was_said(board: Switchboard) -> None:
    for site in SITES:
        say(board, site, contribution(site))
    say(board, "beta", failed("beta"))
    came = go(collect(board))
    assert (sorted(came.got), came.missing, came.gone) == (SITES, {}, frozenset())


def test_a_deadline_names_who_is_missing_and_does_not_give_them_up(board: Switchboard) -> None:
    say(board, "alpha", contribution("alpha"))
    say(board, "beta", pulse("beta"))
    came = go(collect(board, timeout_s=0.05))
    assert list(came.got) == ["alpha"]
    assert came.missing == {"beta": "it did not answer within 0 s"}
    assert came.gone == frozenset()


def test_a_site_that_falls_silent_is_gone(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchboard_module, "SILENCE_S", 0.2)

    async def scene() -> None:
        say(board, "alpha", pulse("alpha"))
        say(board, "beta", pulse("beta"))
        wait = asyncio.create_task(collect(board))
        while not wait.done():
            say(board, "alpha", contribution("alpha"))
            await asyncio.sleep(0.02)
        came = await wait
        assert list(came.got) == ["alpha"]
        assert (came.missing, came.gone) == ({"beta": "it has been silent for 0 s"}, {"beta"})

    go(scene())


def test_a_site_that_was_never_heard_has_until_the_deadline(
    board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is starting."""
    monkeypatch.setattr(switchboard_module, "SILENCE_S", 0.05)
    came = go(collect(board, timeout_s=0.5))
    assert set(came.missing.values()) == {"it did not answer within 0 s"}
    assert came.gone == frozenset()


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
        assert set((await wait).got) == set(SITES)

    go(scene())


def test_stop_ends_every_wait_at_once(board: Switchboard) -> None:
    async def scene() -> None:
        waits = [asyncio.create_task(collect(board, enough=enough)) for enough in (1, None)]
        await asyncio.sleep(0.01)
        board.stop_run("run-1")
        board.stop_run("run-2")
        for wait in waits:
            with refusal("run.stopped"):
                await wait
        with refusal("run.stopped"):
            await collect(board)

    go(scene())


def test_what_an_uninvited_site_says_changes_nothing(board: Switchboard) -> None:
    mallory = Identity.generate("mallory")
    for message in (contribution("mallory"), failed("mallory")):
        with pytest.raises(ProtocolError, match="not for mallory"):
            board.take("mallory", message, sign(mallory, message))
    for site in SITES:
        say(board, site, contribution(site))
    assert set(go(collect(board)).got) == set(SITES)


# -- who is there again ----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that a test sets: ``clock.now``, in seconds."""
    made = SimpleNamespace(now=1000.0, monotonic=lambda: made.now)
    monkeypatch.setattr(switchboard_module, "time", made)
    return made


def poll(board: Switchboard, site: str, *, anew: bool = False, open_s: float = 0.0) -> None:
    """Let a site begin a poll, which stays open for *open_s* were its site killed or not."""
    go(board.receive(site, "" if anew else board.boot, 0, 0.0))
    board._polls[site].until += open_s


def test_a_site_that_was_killed_is_not_there_although_its_poll_is_open(
    board: Switchboard, clock: SimpleNamespace
) -> None:
    poll(board, "alpha", anew=True, open_s=20.0)
    clock.now += 1
    poll(board, "alpha", open_s=20.0)
    say(board, "alpha", pulse("alpha"))
    clock.now += SILENCE_S + 1
    assert board.online() == ["alpha"]  # its poll, and five seconds
    assert board.readmit("run-1", ["alpha"]) == []


@pytest.mark.parametrize("anew", [True, False])
def test_a_site_that_polls_after_its_silence_is_there_again(
    board: Switchboard, clock: SimpleNamespace, anew: bool
) -> None:
    """After a restart at once, after a cut line when it polls ten seconds later or more."""
    poll(board, "alpha", anew=True)
    say(board, "alpha", pulse("alpha"))
    clock.now += 5
    poll(board, "alpha", anew=anew, open_s=30.0)
    clock.now += SILENCE_S - 4
    assert board.readmit("run-1", ["alpha", "beta"]) == (["alpha"] if anew else [])
    poll(board, "alpha")
    assert board.readmit("run-1", ["alpha", "beta"]) == ["alpha"]
    assert "alpha" not in board._runs["run-1"].seen  # its silence is not held against it


def test_a_site_that_failed_or_was_only_slow_is_there_again(
    board: Switchboard, clock: SimpleNamespace
) -> None:
    for site in SITES:
        poll(board, site, open_s=20.0)
    say(board, "alpha", failed("alpha"))
    say(board, "beta", pulse("beta"))
    clock.now += SILENCE_S - 1
    assert board.readmit("run-1", [*SITES, "gamma"]) == SITES
    assert board._runs["run-1"].failures == {}
    assert board.readmit("run-9", SITES) == []


def test_a_site_that_does_not_poll_is_not_there(board: Switchboard, clock: SimpleNamespace) -> None:
    poll(board, "alpha")
    say(board, "alpha", failed("alpha"))
    clock.now += 5.1
    assert board.online() == []
    assert board.readmit("run-1", ["alpha"]) == []


# -- who is expelled, and what stands --------------------------------------------------------------


def test_who_is_expelled_is_gone_from_every_wait_at_once(board: Switchboard) -> None:
    async def scene() -> Collected:
        say(board, "beta", contribution("beta"))
        waiting = asyncio.create_task(collect(board))
        await asyncio.sleep(0)
        board.expel("alpha")
        return await waiting

    collected = go(scene())
    assert set(collected.got) == {"beta"}
    assert collected.missing == {"alpha": "it was revoked [link.revoked]"}
    assert collected.gone == {"alpha"}
    assert board.expelled(SITES) == ["alpha"]


def test_what_it_said_before_does_not_count_either(board: Switchboard) -> None:
    for site in SITES:
        say(board, site, contribution(site))
    assert set(go(collect(board)).got) == set(SITES), "the control"
    board.expel("alpha")
    assert set(go(collect(board)).got) == {"beta"}


def test_its_poll_ends_and_it_is_never_there_again(board: Switchboard) -> None:
    async def scene() -> None:
        poll = asyncio.create_task(board.receive("alpha", board.boot, 0, 15.0))
        await asyncio.sleep(0)
        assert board.online() == ["alpha"]
        board.expel("alpha")
        with refusal("link.revoked"):
            await poll
        assert board.online() == []
        with refusal("link.revoked"):
            await board.receive("alpha", "", 0, 15.0)
        assert board.readmit("run-1", ["alpha"]) == []

    go(scene())


def test_a_notice_reaches_who_is_there_and_who_comes_later_once(board: Switchboard) -> None:
    notice = letter(7)

    async def scene() -> list[list[str]]:
        await board.receive("alpha", board.boot, 0, 0.0)
        board.announce(notice)
        there = await board.receive("alpha", board.boot, 0, 0.0)
        later = await board.receive("beta", "", 0, 0.0)
        again = await board.receive("beta", "", 0, 0.0)
        restarted = await board.receive("beta", "", max(seq for seq, _ in again), 0.0)
        return [[signed.payload["state"] for _, signed in got] for got in (there, later, again, restarted)]

    assert go(scene()) == [["7"], ["7"], ["7"], ["7"]]
