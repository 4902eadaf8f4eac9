"""What a running node notices beside its messages; and what it says of itself."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.core.clock import now, parse
from plasmid.core.errors import PlasmidError
from plasmid.gateway import watch as watch_module
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.members.peers import Peers, write_peers
from plasmid.gateway.node import Node
from plasmid.gateway.pause import pause, resume
from plasmid.gateway.status import holding, is_up, read_status, site_status
from plasmid.gateway.watch import Watch
from plasmid.link import authority
from plasmid.uplink.enrol import Credential
from plasmid.uplink.membership import Validity, renew, validity
from support.federation.attacks import refusal
from support.federation.live_link import LiveLink


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveLink]:
    with LiveLink(tmp_path) as link:
        yield link


class NoLauncher:
    level = "none"

    def launch(self, log: Path, **_: Any) -> Any:
        raise AssertionError("there is nothing to run")


@pytest.fixture
def node(live: LiveLink) -> Iterator[Node]:
    """A site that is enrolled at a real link, not serving yet."""
    credential, keys = live.member("alpha")
    home = SiteHome(credential.folder)
    home.write_config(SiteConfig(name="alpha", organisation="alpha-org"))
    write_peers(home.peers, Peers(coordinator=live.identity.public))
    made = Node(home, keys, launcher=NoLauncher())  # type: ignore[arg-type]
    yield made
    made.close()
    made.link.close()


def until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pause_of_another_process_ends_every_run(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[PlasmidError] = []
    monkeypatch.setattr(node, "end_all", ended.append)
    watch = Watch(node)
    watch.look()
    assert ended == []
    pause(node.gateway.home, by="ann", reason="an audit")
    watch.look()
    watch.look()
    assert [error.code for error in ended] == ["site.paused"] * 2, "one that began meanwhile is ended, too"
    resume(node.gateway.home, by="ann")
    watch.look()
    assert len(ended) == 2


@pytest.mark.parametrize(("left_days", "renewed"), [(125, False), (121, True), (1, True), (-1, True)])
def test_the_certificate_is_renewed_when_a_third_of_its_life_is_left(
    live: LiveLink, node: Node, left_days: int, renewed: bool
) -> None:
    """The coordinator's clock and the node's go together, so that the request is fresh."""
    certificate = Credential(node.gateway.home.folder).certificate
    before = certificate.read_bytes()
    late = validity(certificate).ends - timedelta(days=left_days)
    live.app.state.callers._clock = lambda: late
    Watch(node, clock=lambda: late).look()
    assert (certificate.read_bytes() != before) is renewed
    actions = [entry["action"] for entry in node.gateway.audit.entries()]
    assert actions == (["rotated"] if renewed else [])
    assert node.link.request("GET", "/v1/roster").json()["sites"][0]["name"] == "alpha"


def test_one_that_cannot_be_renewed_yet_is_tried_again_and_ends_nothing(
    live: LiveLink, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def refuse(*_: Any, **__: Any) -> Any:
        tried.append(1)
        raise PlasmidError("link.unreachable", "nobody there")

    monkeypatch.setattr(watch_module, "renew", refuse)
    monkeypatch.setattr(watch_module, "validity", lambda _: Validity(now() - timedelta(days=9), now()))
    monkeypatch.setattr(watch_module, "LOOK_S", 0.01)
    monkeypatch.setattr(watch_module, "RETRY_S", 0.05)
    watch = Watch(node)
    ended = SimpleNamespace(left=40)

    def wait(_: float) -> bool:
        ended.left -= 1
        time.sleep(0.01)
        return ended.left < 0

    watch.run(SimpleNamespace(wait=wait))  # type: ignore[arg-type]
    assert 2 <= len(tried) <= 10


def test_a_certificate_that_another_process_renewed_is_taken_up(
    live: LiveLink, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(node.link, "reload", lambda: taken.append(1))
    watch = Watch(node)
    watch.look()
    assert taken == []
    renew(Credential(node.gateway.home.folder), node.keys)
    watch.look()
    watch.look()
    assert taken == [1]


def test_a_node_says_what_it_does_and_another_does_not_start(live: LiveLink, node: Node) -> None:
    home = node.gateway.home
    assert (is_up(home), read_status(home)) == (False, {})
    ended: list[PlasmidError] = []

    def serve() -> None:
        try:
            node.serve()
        except PlasmidError as error:
            ended.append(error)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    until(lambda: read_status(home).get("coordinator", {}).get("heard"))
    assert is_up(home)
    with refusal("storage.in_use"), holding(home):
        pass
    live.run(live.server.send([]))
    said = site_status(home)
    assert (said["up"], said["runs"], said["isolation"], said["paused"]) == (True, {}, "none", None)
    assert said["coordinator"]["url"] == live.url
    assert parse(said["certificate_ends"]) - now() > timedelta(days=authority.LEAF_DAYS - 1)
    assert said["last_entry"]["action"] == "connected"
    assert (said["budgets"], said["problems"]) == ([], [])
    pause(home, by="ann", reason="an audit")
    assert site_status(home)["paused"]["by"] == "ann"
    polls = live.server._switchboard._polls["alpha"]
    until(lambda: polls.begun > polls.anew)  # the first is answered at once, the next one stays open
    live.registry.revoke("alpha", reason="the test is over", by=live.identity)
    serving.join(10)
    assert [error.code for error in ended] == ["link.revoked"], "a node that was revoked ends and says so"
    assert (is_up(home), read_status(home)) == (False, {})


def test_of_a_node_that_does_not_run_the_coordinator_is_asked_itself(live: LiveLink, node: Node) -> None:
    home = node.gateway.home
    found = site_status(home)
    assert (found["up"], found["coordinator"]["reachable"]) == (False, True)
    Credential(home.folder).remember("https://localhost:9", live.identity.public, "alpha")
    assert site_status(home)["coordinator"]["reachable"] is False
    Credential(home.folder).remember(live.url, "ab" * 32, "alpha")
    assert site_status(home)["coordinator"]["reachable"] is False, "somebody else answers there"


def _hold(folder: str, ready: Any) -> None:
    with holding(SiteHome(Path(folder))):
        ready.set()
        time.sleep(60)


def test_a_node_that_was_killed_is_not_up(node: Node) -> None:
    home = node.gateway.home
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(str(home.folder), ready))
    process.start()
    assert ready.wait(60)
    assert is_up(home)
    process.kill()
    process.join(10)
    assert not is_up(home)
    with holding(home):
        assert is_up(home)


def test_a_policy_that_stops_to_parse_is_said_once_with_file_and_line(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    policy = node.gateway.home.policy
    policy.write_text("allow: []\n")
    watch = Watch(node)
    watch.look()
    assert caplog.text == ""
    policy.write_text("allow: []\nrequire:\n  max_round: 3\n")
    watch.look()
    watch.look()
    assert caplog.text.count(f"{policy}:3: require.max_round: unknown key (did you mean 'max_rounds'?)") == 1
    policy.write_text("allow: []\n")
    watch.look()
    watch.look()
    assert caplog.text.count("the policy can be read again") == 1
