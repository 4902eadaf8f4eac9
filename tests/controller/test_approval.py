"""A run that waits for approvals: how long, who is asked again, and what a restart leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from controller.conftest import Scene
from plasmid.coordinator import admission as admission_module
from plasmid.coordinator.admission import Admissions
from plasmid.coordinator.states import RunState
from plasmid.core.clock import now
from plasmid.protocol import messages
from plasmid.recipes.protection import Limits
from plasmid.recipes.query import PingDocument
from support.federation.approving import add_people, allow_approved, sign

Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]
Event = Callable[[], None]


class Days:
    """Time passes when the run sleeps; then what was planned happens."""

    def __init__(self, made: Scene) -> None:
        self.made, self.begun, self.step = made, made.link.now, 10.0
        self.planned: list[tuple[float, Event]] = []

    def sleep(self, seconds: float) -> None:
        self.made.link.now += max(seconds, self.step)
        for due in [one for one in self.planned if one[0] <= self.made.link.now - self.begun]:
            self.planned.remove(due)
            due[1]()
        self.made.link.pump()

    def clock(self) -> datetime:
        return now() + timedelta(seconds=self.made.link.now - self.begun)

    def after(self, seconds: float, event: Event) -> None:
        self.planned.append((seconds, event))


@pytest.fixture
def waiting(scene: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Scene, Days]]:
    """Return a function that makes a run of four, in which people at *sites* are to approve it."""

    def make(*sites: str, **limits: Any) -> tuple[Scene, Days]:
        document = PingDocument(length=6, rounds=2, federation=Limits(**limits))
        made = scene(4, document, admitted=False)
        for site in sites:
            allow_approved(made.federation, site, wait_days=1)
            add_people(made.federation, site=site)
        days = Days(made)
        clock = SimpleNamespace(monotonic=lambda: made.link.now, sleep=days.sleep)
        monkeypatch.setattr(admission_module, "time", clock)
        monkeypatch.setattr(Admissions.__init__, "__kwdefaults__", {"clock": days.clock})
        for site in made.federation.sites:
            made.federation.gateways[site].audit._clock = days.clock
        return made, days

    return make


def approve(made: Scene, site: str, *names: str) -> Event:
    """Return what has people at *site* sign the run."""

    def act() -> None:
        approvals = made.federation.gateways[site].approvals
        case = approvals.find(made.federation.digest)
        for name in names:
            sign(approvals, case, name)

    return act


def tell(made: Scene, site: str) -> Event:
    """Return what has the node of *site* look again, and say what its gateway answers now."""

    def act() -> None:
        federation = made.federation
        said = federation.gateways[site].answer(federation.admitting())
        made.link._say(site, messages.sign(federation.identities[site], said))

    return act


def test_a_run_waits_and_starts_when_the_last_has_signed(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha", "beta")
    seen: list[tuple[str, dict[str, int] | None]] = []

    def look() -> None:
        shown = made.runs.show(made.federation.run)
        seen.append((shown["state"], shown["approvals"]))

    days.after(30, look)
    days.after(100, approve(made, "alpha", "ann"))
    days.after(200, look)
    days.after(300, approve(made, "alpha", "bob"))
    days.after(400, look)
    days.after(500, approve(made, "beta", "ann", "bob"))
    shown = start(made)
    assert seen == [
        ("AWAITING_APPROVAL", {"have": 0, "need": 4}),
        ("AWAITING_APPROVAL", {"have": 1, "need": 4}),
        ("AWAITING_APPROVAL", {"have": 2, "need": 4}),
    ]
    assert (shown["state"], shown["approvals"]) == ("SUCCEEDED", {"have": 4, "need": 4})
    assert shown["result"]["participants"] == ["alpha", "beta", "delta", "epsilon"]
    assert not days.planned


def test_who_has_accepted_keeps_nothing_for_a_run_that_waits(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha")
    held: list[bool] = []
    gateways, run = made.federation.gateways, made.federation.run
    days.after(100, lambda: held.append(run in gateways["beta"]._runs))
    days.after(200, approve(made, "alpha", "ann", "bob"))
    assert start(made)["state"] == "SUCCEEDED"
    assert held == [False]
    assert len(made.events("beta", "accepted")) == 2


def test_a_site_says_by_itself_that_its_people_have_signed(
    waiting: Callable[..., tuple[Scene, Days]], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "SEND_AGAIN_S", 1e9)
    made, days = waiting("alpha")
    days.after(50, approve(made, "alpha", "ann"))
    days.after(50, tell(made, "alpha"))
    days.after(100, approve(made, "alpha", "bob"))
    days.after(100, tell(made, "alpha"))
    assert start(made)["state"] == "SUCCEEDED"
    assert not made.link.late


def test_a_site_whose_people_do_not_sign_in_time_is_left_out(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha", "beta")
    days.step = 1800.0
    days.after(100, approve(made, "alpha", "ann", "bob"))
    shown = start(made)
    assert shown["state"] == "SUCCEEDED"
    assert shown["result"]["participants"] == ["alpha", "delta", "epsilon"]
    assert shown["sites"]["beta"]["code"] == "policy.approval_expired"
    assert made.link.now - days.begun >= 24 * 3600


def test_too_few_that_sign_in_time_end_the_run(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha", "beta", min_sites=4)
    days.step = 1800.0
    days.after(100, approve(made, "alpha", "ann", "bob"))
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "run.approval_expired")
    assert "beta: The run was not approved in time at the site" in shown["error"]["message"]
    assert made.events("alpha", "epoch") == []


def test_a_site_that_is_gone_is_waited_for_until_its_own_deadline(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha", "beta")
    days.step = 1800.0
    days.after(50, lambda: made.link.kill("beta"))
    days.after(100, approve(made, "alpha", "ann", "bob"))
    shown = start(made)
    assert shown["result"]["participants"] == ["alpha", "delta", "epsilon"]
    assert shown["sites"]["beta"]["sentence"] == "It let its own deadline pass."
    assert 24 * 3600 <= made.link.now - days.begun < 25 * 3600


def test_a_site_that_comes_back_in_time_takes_part(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha")
    days.after(50, lambda: made.link.kill("alpha"))
    days.after(5000, lambda: made.link.restart("alpha"))
    days.after(5100, approve(made, "alpha", "ann", "bob"))
    shown = start(made)
    assert "alpha" in shown["result"]["participants"]


def test_too_few_that_can_be_left_end_the_run_at_once(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha", min_sites=4)
    made.federation.allow("beta", [])
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "recipe.too_few_sites")
    assert made.link.now - days.begun < 3600
    assert "alpha: its people have yet to approve" in shown["error"]["message"]


def test_an_approval_revoked_while_others_wait_is_awaited_again(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha", "beta")
    days.after(100, approve(made, "alpha", "ann", "bob"))
    days.after(300, lambda: allow_approved(made.federation, "alpha", people=["bob"], quorum=1))
    days.after(310, lambda: add_people(made.federation, "cem", site="alpha"))
    days.after(320, lambda: allow_approved(made.federation, "alpha", people=["bob", "cem"]))
    days.after(400, approve(made, "beta", "ann", "bob"))
    days.after(900, approve(made, "alpha", "cem"))
    shown = start(made)
    assert shown["state"] == "SUCCEEDED"
    assert made.link.now - days.begun >= 900


def test_a_run_that_waits_can_be_stopped(waiting: Callable[..., tuple[Scene, Days]], start: Start) -> None:
    made, days = waiting("alpha")
    days.after(100, lambda: made.link.board.stop_run(made.federation.run))
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("STOPPED", "run.stopped")


class Gone(Exception):
    """The coordinator's process is killed."""


def test_after_a_restart_of_the_coordinator_a_run_waits_on(
    waiting: Callable[..., tuple[Scene, Days]], start: Start
) -> None:
    made, days = waiting("alpha", "beta")
    run = made.federation.run

    def die() -> None:
        raise Gone

    days.after(100, approve(made, "alpha", "ann", "bob"))
    days.after(200, die)
    context = made.link.context(made.runs)
    organisations = {site: made.federation.organisation(site) for site in made.federation.sites}
    with pytest.raises(Gone):
        Admissions(context, organisations).admit(made.job, list(made.federation.sites))
    assert made.runs.interrupt_unfinished() == []
    assert list(made.runs.awaiting()) == [run]
    made.link.board._runs.clear()  # its memory is lost
    made.link.board.open_run(run, list(made.federation.sites))
    days.after(400, approve(made, "beta", "ann", "bob"))
    shown = start(made)
    assert shown["state"] == "SUCCEEDED"
    assert shown["result"]["participants"] == ["alpha", "beta", "delta", "epsilon"]


def test_control_without_people_nothing_waits(scene: Make, start: Start) -> None:
    made = scene(4, PingDocument(length=6, rounds=2), admitted=False)
    shown = start(made)
    assert (shown["state"], shown["approvals"]) == ("SUCCEEDED", None)
    assert not [text for text in made.log() if RunState.AWAITING_APPROVAL in text]
