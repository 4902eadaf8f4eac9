"""The level of a site: chosen by trial when it starts, demanded by its policy, never lowered in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasmid.gateway import node as node_module
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.node import Node
from plasmid.isolation.bubblewrap import Bubblewrap
from plasmid.isolation.choice import choose, probe
from plasmid.isolation.landlock import Landlock
from plasmid.isolation.launcher import LocalLauncher
from plasmid.isolation.levels import LEVELS, at_least
from plasmid.isolation.port import Spec, check_apart, interpreter
from plasmid.protocol.messages import Admission, open_signed, sign
from plasmid.secagg.statements import IsolationLevel
from support.federation.attacks import refusal
from support.federation.in_memory import Federation
from support.federation.one_node import Outbox
from support.servers.sandboxed import REAL

EVERY = {"bubblewrap": Bubblewrap, "landlock": Landlock}


def lacking(monkeypatch: pytest.MonkeyPatch, *levels: str) -> None:
    """Make the trial of these levels fail, as it does on hosts that lack them."""
    for level in levels:
        monkeypatch.setattr(EVERY[level], "unavailable", lambda self: f"there is no {self.level}")


def node_with(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[Node, Outbox]:
    """Return alpha's node with these settings in its site.yaml."""
    home, outbox = federation.home("alpha"), Outbox()
    home.write_config(home.config().model_copy(update=settings))
    monkeypatch.setattr(node_module.Credential, "connect", lambda *_, **__: outbox)
    node = Node(home, federation.keys("alpha"))
    federation.gateways["alpha"] = node.gateway
    return node, outbox


def test_levels_have_an_order() -> None:
    assert LEVELS == ("bubblewrap", "landlock", "none")
    assert at_least("bubblewrap", "landlock")
    assert at_least("landlock", "landlock")
    assert not at_least("none", "landlock")
    assert list(probe()) == list(LEVELS)


@pytest.mark.promise("best-is-never-none")
def test_best_is_the_strongest_that_works_and_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("best").level == REAL[0].level
    lacking(monkeypatch, *(isolation.level for isolation in REAL[:-1]))
    assert choose("best").level == REAL[-1].level
    lacking(monkeypatch, *EVERY)
    with refusal("site.isolation") as caught:
        choose("best")
    for level in EVERY:
        assert f"{level}: there is no {level}" in caught.value.message
    assert choose("none").level == "none"


@pytest.mark.parametrize("wanted", ["best", "bubblewrap", "landlock"])
def test_a_weaker_level_is_not_taken_instead(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    lacking(monkeypatch, *(EVERY if wanted == "best" else [wanted]))
    with refusal("site.isolation"):
        choose(wanted)


def test_a_site_whose_level_cannot_be_had_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its launcher's helper has tried it."""
    monkeypatch.setenv("PATH", str(tmp_path))  # without bwrap
    with refusal("site.isolation") as caught:
        node_with(Federation(tmp_path), monkeypatch, isolation="bubblewrap")
    assert "the program bwrap is not installed" in caught.value.message
    assert (
        node_with(Federation(tmp_path / "weaker"), monkeypatch, isolation="none")[0].launcher.level == "none"
    )


@pytest.mark.parametrize("how", ["broken", "removed"])
def test_a_level_that_goes_while_the_site_runs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """No worker is started at a lower one."""
    launcher = LocalLauncher("bubblewrap")
    broken = tmp_path / "bwrap"
    if how == "broken":
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    home = tmp_path / "site"
    home.mkdir()
    with refusal("site.sandbox") as caught:
        launcher.launch(home / "worker.log", read=[], notice=lambda _: None)
    assert "bubblewrap" in caught.value.message
    assert list((home / "scratch").iterdir()) == []


@pytest.mark.promise("isolation-demanded")
@pytest.mark.parametrize(
    ("level", "required", "accepted"),
    [
        ("bubblewrap", "bubblewrap", True),
        ("landlock", "bubblewrap", False),
        ("landlock", "landlock", True),
        ("none", "landlock", False),
        ("none", "none", True),
    ],
)
def test_a_policy_demands_a_level(
    tmp_path: Path, level: IsolationLevel, required: IsolationLevel, accepted: bool
) -> None:
    federation = Federation(tmp_path, require={"isolation": required})
    home, keys = federation.home("alpha"), federation.keys("alpha")
    federation.gateways["alpha"] = Gateway(home, keys, source=federation, isolation=level)
    admission = federation.admit("alpha")
    assert (admission.accepted, admission.code) == (accepted, "" if accepted else "policy.isolation")


def test_a_policy_that_asks_for_more_meanwhile_is_heard_at_the_next_answer(tmp_path: Path) -> None:
    """Not only when the run is admitted: a vector is asked for, and does not leave."""
    federation = Federation(tmp_path)
    home, keys = federation.home("alpha"), federation.keys("alpha")
    federation.gateways["alpha"] = Gateway(home, keys, source=federation, isolation="landlock")
    federation.set_up()
    manifest = federation.manifest()
    federation.allow("alpha", [federation.digest], isolation="bubblewrap")
    with refusal("policy.isolation"):
        federation.answers(manifest)
    assert [entry["action"] for entry in federation.log("alpha") if entry["action"] == "released"] == []


def test_a_node_tells_the_coordinator_that_its_policy_asks_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, require={"isolation": "bubblewrap"})
    node, outbox = node_with(federation, monkeypatch, isolation="landlock")
    node._take(sign(federation.coordinator, federation.admitting()))
    answer = open_signed(outbox.wait(1)[0], federation.identities["alpha"].public)
    assert isinstance(answer, Admission)
    assert (answer.accepted, answer.code) == (False, "policy.isolation")


def test_a_site_inside_of_what_its_worker_reads_is_refused(tmp_path: Path) -> None:
    spec = Spec(("/bin/true",), (tmp_path,), {}, tmp_path / "scratch")
    with refusal("site.isolation"):
        check_apart(spec, tmp_path / "site")
    check_apart(Spec(("/bin/true",), (), {}, tmp_path / "scratch"), tmp_path / "site")


def test_a_relative_entry_of_a_path_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from the root, "." is everything."""
    monkeypatch.setenv("PYTHONPATH", f".:..:{Path(__file__).parent}")
    monkeypatch.setenv("LD_LIBRARY_PATH", ":.")
    interpreter.cache_clear()
    try:
        found = interpreter()
    finally:
        monkeypatch.undo()
        interpreter.cache_clear()
    assert Path(__file__).parent in found
    assert Path("/") not in found
    assert all(path.is_absolute() for path in found)
