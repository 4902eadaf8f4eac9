"""Runs that wait for approvals at a running node: when it looks again, what it says, whom it tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.core.clock import now
from plasmid.gateway import node as node_module
from plasmid.gateway import waiting as waiting_module
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.node import Node
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.messages import Admit, End, Signed
from plasmid.protocol.messages import sign as signed_message
from support.federation.approving import SECRET, add_people, allow_approved, revoke, sign, write_policy
from support.federation.in_memory import Federation


class Posted:
    """A link that keeps what is posted."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.arrived = threading.Condition()

    def download(self, digest: str, size: int) -> bytes:
        raise AssertionError("no run goes as far as a state")

    def post(self, signed: Signed) -> None:
        with self.arrived:
            self.said.append(signed.payload)
            self.arrived.notify_all()

    def admissions(self, count: int) -> list[dict[str, Any]]:
        """Return the admissions once there are *count*."""

        def found() -> list[dict[str, Any]]:
            return [said for said in self.said if said["type"] == "admission"]

        with self.arrived:
            assert self.arrived.wait_for(lambda: len(found()) >= count, 30), self.said
            return found()


class NoWorker:
    """A launcher of workers that never answer."""

    level = "none"

    def launch(self, *_: Any, **__: Any) -> Any:
        channel = SimpleNamespace(send=lambda *_: None)
        return SimpleNamespace(channel=channel, end=lambda: None)


class Scene:
    """alpha's node, whose thread that looks is the test itself."""

    def __init__(self, federation: Federation, node: Node, link: Posted) -> None:
        self.federation, self.node, self.link = federation, node, link
        self.told: list[object] = []

    def ask(self) -> Admit:
        """Have the coordinator ask, and return what it asks."""
        request = self.federation.admitting()
        self.node._take(signed_message(self.federation.coordinator, request))
        return request

    def look(self) -> None:
        """Have the node look, and wait until what it started is done."""
        before = set(threading.enumerate())
        self.node.waiting.look()
        for thread in set(threading.enumerate()) - before:
            thread.join(30)

    def approvals(self) -> Approvals:
        """Return the approvals as another process has them: the verb, or the page."""
        home = self.federation.home("alpha")
        return Approvals(home, AuditLog(home.audit))

    def approve(self, *names: str) -> None:
        """Have people sign, from another process."""
        approvals = self.approvals()
        case = approvals.find(self.federation.digest)
        for name in names:
            sign(approvals, case, name)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    federation, link = Federation(tmp_path), Posted()
    allow_approved(federation)
    add_people(federation)
    monkeypatch.setattr(node_module.Credential, "connect", lambda *_, **__: link)
    node = Node(federation.home("alpha"), federation.keys("alpha"), launcher=NoWorker())  # type: ignore[arg-type]
    federation.gateways["alpha"] = node.gateway
    made = Scene(federation, node, link)
    monkeypatch.setattr(waiting_module, "tell", lambda notify: made.told.append(notify) or [("webhook", "")])
    yield made
    node.close()


def counts(said: list[dict[str, Any]]) -> list[int | None]:
    return [one["pending"]["have"] if one["pending"] else None for one in said]


def test_a_run_that_waits_is_said_once_and_again_when_the_count_changes(scene: Scene) -> None:
    scene.ask()
    scene.link.admissions(1)
    for _ in range(3):
        scene.look()
    scene.approve("ann")
    scene.look()
    scene.approve("bob")
    scene.look()
    said = scene.link.admissions(3)
    assert counts(said) == [0, 1, None]
    assert [one["accepted"] for one in said] == [False, False, True]
    assert len([one for one in scene.federation.log("alpha") if one["action"] == "awaiting"]) == 2


def test_the_same_request_again_gets_the_same_answer_without_a_new_look(scene: Scene) -> None:
    for count in (1, 2, 3):
        scene.ask()
        scene.link.admissions(count)
    said = scene.link.admissions(3)
    assert said[0] == said[1] == said[2]
    assert len([one for one in scene.federation.log("alpha") if one["action"] == "admit"]) == 1


def test_a_node_that_was_started_anew_learns_of_it_when_it_is_asked_again(scene: Scene) -> None:
    scene.ask()
    first = scene.link.admissions(1)[0]
    again = Node(scene.federation.home("alpha"), scene.federation.keys("alpha"), launcher=NoWorker())  # type: ignore[arg-type]
    again._take(signed_message(scene.federation.coordinator, scene.federation.admitting()))
    assert scene.link.admissions(2)[1] == first  # the deadline, too
    again.close()


def test_a_revocation_and_a_new_policy_are_noticed(scene: Scene) -> None:
    scene.ask()
    scene.link.admissions(1)
    scene.approve("ann")
    scene.look()
    approvals = scene.approvals()
    revoke(approvals, approvals.all_signatures()[0], "bob")
    scene.look()
    write_policy(scene.federation, "alpha", [scene.federation.digest])
    scene.look()
    assert counts(scene.link.admissions(4)) == [0, 1, 0, None]


def test_at_its_deadline_a_run_is_refused(scene: Scene) -> None:
    scene.ask()
    scene.link.admissions(1)
    scene.node.gateway.audit._clock = lambda: now() + timedelta(days=15)
    scene.look()
    said = scene.link.admissions(2)[1]
    assert (said["code"], said["pending"]) == ("policy.approval_expired", None)
    scene.look()
    assert len(scene.link.admissions(2)) == 2


def test_a_run_that_is_over_waits_no_more(scene: Scene) -> None:
    request = scene.ask()
    scene.link.admissions(1)
    scene.node._take(signed_message(scene.federation.coordinator, End(run=request.run, state="STOPPED")))
    assert scene.approvals().files.all_waiting() == []
    scene.approve("ann")  # nobody listens
    scene.look()
    assert len(scene.link.admissions(1)) == 1


def test_approvers_are_told_once_and_the_log_says_so(scene: Scene) -> None:
    scene.ask()
    scene.link.admissions(1)
    scene.ask()
    scene.approve("ann")
    scene.look()
    deadline = time.monotonic() + 30
    while not scene.told and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(scene.told) == 1
    told = [one for one in scene.federation.log("alpha") if one["action"] == "approval.told"]
    assert [(one["channel"], one["result"]) for one in told] == [("webhook", "ok")]


def test_a_run_that_is_approved_while_it_is_asked_about_starts_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator sends the request again at the moment at which the last approval arrives."""
    started: list[str] = []

    class Quiet(threading.Thread):
        def __init__(self, node: Node, run: str) -> None:
            super().__init__(daemon=True)
            self.run_id, self.ended, self.inbox = run, threading.Event(), SimpleNamespace(put=lambda _: None)
            self.pulse = SimpleNamespace(round=0, step=0, steps=0)

        def run(self) -> None:
            started.append(self.run_id)

        def end(self, reason: str, **_: Any) -> None:
            self.ended.set()

    monkeypatch.setattr(node_module, "SiteRun", Quiet)
    request = scene.ask()
    scene.link.admissions(1)
    scene.approve("ann", "bob")
    racers: list[Callable[[], None]] = [
        lambda: scene.node.admit(request),
        lambda: scene.node.admit(request, again=True),
    ] * 3
    threads = [threading.Thread(target=race) for race in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert started == [request.run]


def test_control_the_passphrases_are_nowhere_in_what_is_said_or_logged(scene: Scene) -> None:
    scene.ask()
    scene.link.admissions(1)
    scene.approve("ann", "bob")
    scene.look()
    text = repr(scene.link.admissions(2)) + repr(scene.federation.log("alpha"))
    assert "ann" in text
    assert not [name for name in ("ann", "bob") if SECRET.format(name) in text]
