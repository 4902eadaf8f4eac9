"""`plasmid site` and `plasmid coordinator`: keys, peers, pause, membership; over a real coordinator's link.

A node that runs is in ``test_site_start.py``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from plasmid.cli import confirming
from plasmid.cli.verbs.site import app as site_app
from plasmid.coordinator.verb import app as coordinator_app
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys import keystore
from plasmid.gateway.members.peers import read_peers
from plasmid.gateway.members.revocations import Revoked
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.enrolment import RosterEntry
from plasmid.protocol.identity import fingerprint
from support.federation.live_link import PASSPHRASE, LiveLink


def call(app: typer.Typer, *arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(app, [*arguments, "--format", "json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


@dataclass
class Scene:
    """A coordinator, and the folder of a site that is not made yet."""

    live: LiveLink
    home: SiteHome
    passphrase: Path

    def run(self, *arguments: str, passphrase: bool = False) -> tuple[int, Any]:
        how = ["--home", str(self.home.folder)]
        if passphrase:
            how += ["--passphrase-file", str(self.passphrase)]
        return call(site_app, *arguments, *how)

    def ok(self, *arguments: str, passphrase: bool = False) -> Any:
        status, answer = self.run(*arguments, passphrase=passphrase)
        assert (status, answer["status"]) == (0, "ok"), answer
        return answer["data"]

    def fails(self, code: str, *arguments: str, passphrase: bool = False) -> str:
        status, answer = self.run(*arguments, passphrase=passphrase)
        assert (status, answer["error"]["code"]) == (1, code), answer
        return str(answer["error"]["message"])

    def operator(self, *arguments: str) -> Any:
        status, answer = call(coordinator_app, *arguments, "--home", str(self.live.home.folder))
        assert (status, answer["status"]) == (0, "ok"), answer
        return answer["data"]

    def join(self) -> Any:
        """Make the site and enrol it, as its owner would."""
        self.ok("init", "alpha", "--organisation", "A", passphrase=True)
        secret = self.operator("invite", "alpha", "--organisation", "A")["invitation"]
        how = ["--coordinator", self.live.url, "--invitation", secret]
        how += ["--coordinator-fingerprint", fingerprint(self.live.identity.public)]
        return self.ok("join", *how, passphrase=True)

    def actions(self) -> list[str]:
        return [entry["action"] for entry in AuditLog(self.home.audit).entries()]


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.delenv("PLASMID_PASSPHRASE_FILE", raising=False)
    with LiveLink(tmp_path / "link") as live:
        yield Scene(live, SiteHome(tmp_path / "site"), secret(tmp_path / "words", PASSPHRASE + "\n"))


def test_a_site_is_made_with_a_passphrase_and_not_without(scene: Scene) -> None:
    scene.fails("keys.no_passphrase", "init", "alpha", "--organisation", "A")
    assert not scene.home.keys.exists()
    weak = secret(scene.passphrase.with_name("weak"), "short")
    scene.fails(
        "keys.weak_passphrase", "init", "alpha", "--organisation", "A", "--passphrase-file", str(weak)
    )
    assert not scene.home.keys.exists()
    made = scene.ok("init", "alpha", "--organisation", "A", passphrase=True)
    assert made["card"]["key"] == scene.home.public
    assert scene.home.folder.stat().st_mode & 0o777 == 0o700
    scene.fails("usage.exists", "init", "alpha", "--organisation", "A", passphrase=True)
    assert scene.ok("show")["card"] == made["card"], "which needs no passphrase"


def test_a_passphrase_comes_through_a_descriptor_too(scene: Scene) -> None:
    reader, writer = os.pipe()
    os.write(writer, PASSPHRASE.encode())
    os.close(writer)
    scene.ok("init", "alpha", "--organisation", "A", "--passphrase-fd", str(reader))
    assert keystore.EncryptedFile(scene.home.keys, lambda: PASSPHRASE).identity().name == "alpha"


def test_a_wrong_passphrase_enrols_nobody_and_spends_no_invitation(scene: Scene) -> None:
    scene.ok("init", "alpha", "--organisation", "A", passphrase=True)
    invitation = scene.operator("invite", "alpha", "--organisation", "A")["invitation"]
    wrong = secret(scene.passphrase.with_name("wrong"), "not the passphrase")
    how = ["--coordinator", scene.live.url, "--invitation", invitation]
    how += ["--coordinator-fingerprint", fingerprint(scene.live.identity.public)]
    scene.fails("keys.passphrase", "join", *how, "--passphrase-file", str(wrong))
    assert [known["state"] for known in scene.operator("invitations")["invitations"]] == ["open"]
    scene.ok("join", *how, passphrase=True)
    assert [known["state"] for known in scene.operator("invitations")["invitations"]] == ["used"]


def test_peers_are_confirmed_by_what_their_owner_says(scene: Scene) -> None:
    scene.join()
    _, beta = scene.live.member("beta")
    assert scene.ok("peers", "ls")["peers"] == []
    message = scene.fails("protocol.fingerprint", "peers", "confirm", "beta", passphrase=True)
    assert fingerprint(beta.public) in message, "without a terminal nothing is confirmed"
    whose = ["--organisation", "beta-org"]
    other = fingerprint(scene.live.identity.public)
    wrong = ["peers", "confirm", "beta", "--fingerprint", other, *whose]
    scene.fails("protocol.fingerprint", *wrong, passphrase=True)
    assert read_peers(scene.home.peers).sites == []
    spoken = fingerprint(beta.public).replace("-", " ").lower()
    done = scene.ok("peers", "confirm", "beta", "--fingerprint", spoken, *whose, passphrase=True)
    assert done["peers"] == ["beta"]
    (row,) = scene.ok("peers", "ls")["peers"]
    assert (row["organisation"], row["key"], row["revoked"]) == ("beta-org", beta.public, False)
    scene.fails("protocol.fingerprint", *wrong, passphrase=True)
    assert scene.ok("peers", "ls")["peers"] == [row], "a mistake drops nobody"
    scene.fails("link.site_unknown", "peers", "confirm", "gamma", passphrase=True)
    assert scene.ok("peers", "drop", "beta")["peers"] == []
    scene.fails("usage.peer", "peers", "drop", "beta")
    assert read_peers(scene.home.peers).coordinator == scene.live.identity.public
    assert [action for action in scene.actions() if action.startswith("peer")] == [
        "peer.confirmed",
        "peer.dropped",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fingerprint", "A"],
        ["--organisation", "B"],
        ["beta", "--fingerprint", "A"],
        ["beta", "--organisation", "B"],
    ],
)
def test_a_peer_is_confirmed_whole_or_not(scene: Scene, arguments: list[str]) -> None:
    """With one option alone the other would come from the coordinator's list."""
    scene.join()
    scene.live.member("beta")
    scene.fails("usage.peer", "peers", "confirm", *arguments, passphrase=True)


@pytest.mark.parametrize("organisation", ["", "x" * 101, "two\nlines", "turned \u202e round"])
def test_what_cannot_be_an_organisation(scene: Scene, organisation: str) -> None:
    """People decide by what they see: it goes into the questions to other owners."""
    scene.fails("usage.name", "init", "alpha", "--organisation", organisation, passphrase=True)
    assert not scene.home.keys.exists()
    invite = ["invite", "alpha", "--organisation", organisation, "--home", str(scene.live.home.folder)]
    assert call(coordinator_app, *invite)[1]["error"]["code"] == "usage.name"
    scene.join()
    _, beta = scene.live.member("beta")
    how = ["beta", "--fingerprint", fingerprint(beta.public), "--organisation", organisation]
    scene.fails("usage.peer", "peers", "confirm", *how, passphrase=True)


def test_a_peer_s_organisation_is_the_one_that_its_owner_says(scene: Scene) -> None:
    """Threat 15: the coordinator lists three organisations where there is one."""
    scene.join()
    _, beta = scene.live.member("beta", organisation="B in the coordinator's list")
    shown = ["--fingerprint", fingerprint(beta.public)]
    scene.ok("peers", "confirm", "beta", *shown, "--organisation", "X", passphrase=True)
    assert read_peers(scene.home.peers).organisation("beta") == "X"
    scene.ok("peers", "confirm", passphrase=True)
    assert read_peers(scene.home.peers).organisation("beta") == "X", "it is not asked about again"
    scene.ok("peers", "confirm", "beta", *shown, "--organisation", "Y", passphrase=True)
    assert [peer.organisation for peer in read_peers(scene.home.peers).sites] == ["Y"]


def test_one_key_under_two_names_is_not_confirmed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator lists whom it likes."""
    scene.join()
    _, beta = scene.live.member("beta")
    shown = ["--fingerprint", fingerprint(beta.public)]
    scene.ok("peers", "confirm", "beta", *shown, "--organisation", "B", passphrase=True)
    twin = RosterEntry(name="gamma", organisation="C", key=beta.public)
    monkeypatch.setattr("plasmid.cli.verbs.site_peers.fetch_roster", lambda _: ([twin], []))
    how = ["gamma", *shown, "--organisation", "C"]
    scene.fails("protocol.key_twice", "peers", "confirm", *how, passphrase=True)
    assert [peer.name for peer in read_peers(scene.home.peers).sites] == ["beta"]
    path = scene.passphrase.with_name("peers.yaml")
    cards = [{"name": name, "organisation": name, "key": beta.public} for name in ("beta", "gamma")]
    path.write_text(json.dumps({"sites": cards}))
    assert "have one key" in scene.fails("recipe.invalid", "join", "--peers", str(path), passphrase=True)
    path.write_text(json.dumps({"sites": cards[:1]}))
    assert scene.ok("join", "--peers", str(path), passphrase=True)["peers"] == ["beta"]


def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever is asked sit at a terminal."""
    monkeypatch.setattr(
        confirming, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True), stderr=sys.stderr)
    )


def test_at_a_terminal_the_owner_is_asked_about_coordinator_and_peers(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, beta = scene.live.member("beta")
    scene.live.member("gamma")
    scene.ok("init", "alpha", "--organisation", "A", passphrase=True)
    secret = scene.operator("invite", "alpha", "--organisation", "A")["invitation"]
    how = ["join", "--coordinator", scene.live.url, "--invitation", secret]
    how += ["--home", str(scene.home.folder), "--passphrase-file", str(scene.passphrase)]
    said: list[str] = []
    answers = [False]

    def confirm(question: str, *, err: bool) -> bool:
        assert err, "the answer's JSON is on standard output"
        said.append(question)
        return answers.pop(0)

    terminal(monkeypatch)
    monkeypatch.setattr(typer, "confirm", confirm)
    result = CliRunner().invoke(site_app, how)
    assert "protocol.fingerprint" in result.output
    assert not scene.home.peers.exists()
    answers[:] = [True, True, False]  # the coordinator, beta, gamma
    assert CliRunner().invoke(site_app, how).exit_code == 0
    assert [(peer.name, peer.key) for peer in read_peers(scene.home.peers).sites] == [("beta", beta.public)]
    answers[:] = [True]
    scene.ok("join", passphrase=True)
    assert [peer.name for peer in read_peers(scene.home.peers).sites] == ["beta", "gamma"], "gamma was new"
    assert (len(said), answers) == (5, [])


def test_a_join_with_another_coordinator_s_fingerprint_enrols_nobody(scene: Scene) -> None:
    scene.ok("init", "alpha", "--organisation", "A", passphrase=True)
    secret = scene.operator("invite", "alpha", "--organisation", "A")["invitation"]
    how = ["--coordinator", scene.live.url, "--invitation", secret]
    wrong = ["--coordinator-fingerprint", fingerprint(scene.home.public)]
    scene.fails("protocol.fingerprint", "join", *how, *wrong, passphrase=True)
    scene.fails("protocol.fingerprint", "join", *how, passphrase=True)
    scene.fails("usage.invitation", "join", "--coordinator", scene.live.url, passphrase=True)
    assert [known["state"] for known in scene.operator("invitations")["invitations"]] == ["open"]
    scene.fails("usage.not_enrolled", "peers", "ls")


def test_a_fingerprint_has_a_hundred_bits_and_more() -> None:
    """Without its dashes: 28 characters of base32, 140 bits."""
    letters = fingerprint("ab" * 32).replace("-", "")
    assert len(letters) * 5 == 140
    assert set(letters) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


def test_names_that_others_choose_are_shown_as_they_are(scene: Scene) -> None:
    """They are no markup: it could hide a line, or end the command."""
    scene.join()
    tricky = "B [/] [conceal]Y[/conceal]"
    _, beta = scene.live.member("beta", organisation=tricky)
    how = ["--fingerprint", fingerprint(beta.public), "--organisation", tricky]
    scene.ok("peers", "confirm", "beta", *how, passphrase=True)
    home = ["--home", str(scene.home.folder)]
    scene.ok("pause", "--reason", "[/]", "--by", "[conceal]ann")
    shown = CliRunner().invoke(site_app, ["peers", "ls", *home])
    assert f"beta ({tricky}): {fingerprint(beta.public)}" in shown.stdout
    assert "PAUSED by [conceal]ann" in CliRunner().invoke(site_app, ["status", *home]).stdout
    shown = CliRunner().invoke(coordinator_app, ["show", "--home", str(scene.live.home.folder)])
    assert f"site beta ({tricky}): {fingerprint(beta.public)}" in shown.stdout
    shown = CliRunner().invoke(coordinator_app, ["invitations", "--home", str(scene.live.home.folder)])
    assert f"site beta ({tricky})" in shown.stdout


def test_a_revoked_peer_is_shown_as_one(scene: Scene) -> None:
    scene.join()
    _, beta = scene.live.member("beta")
    how = ["--fingerprint", fingerprint(beta.public), "--organisation", "B"]
    scene.ok("peers", "confirm", "beta", *how, passphrase=True)
    scene.operator("revoke", "beta", "--reason", "its disk was stolen")
    (found,) = scene.live.registry.revocations()
    Revoked(scene.home.revoked).note(found.statement, scene.live.identity.public)
    assert scene.ok("peers", "ls")["peers"][0]["revoked"] is True


def test_pause_and_resume_need_no_passphrase_and_say_who(scene: Scene) -> None:
    scene.fails("usage.no_site", "pause", "--reason", "an audit")
    scene.join()
    assert scene.ok("pause", "--reason", "an audit", "--by", "ann")["by"] == "ann"
    status = scene.ok("status")
    assert (status["up"], status["paused"]["by"], status["paused"]["reason"]) == (False, "ann", "an audit")
    assert scene.ok("resume", "--by", "bob")["was_paused"] is True
    assert scene.ok("resume")["was_paused"] is False
    assert scene.ok("status")["paused"] is None
    assert scene.actions()[-2:] == ["paused", "resumed"]


def test_status_of_a_site_that_is_not_enrolled_yet(scene: Scene) -> None:
    scene.ok("init", "alpha", "--organisation", "A", passphrase=True)
    status = scene.ok("status")
    assert (status["site"], status["up"], status["coordinator"]) == ("alpha", False, None)
    assert (status["certificate_ends"], status["problems"]) == (None, [])
    assert status["last_entry"]["action"] == "keys.made"


def test_status_says_what_it_cannot_know(scene: Scene) -> None:
    scene.join()
    scene.home.policy.write_text("allow: 3\n")
    scene.home.ledger.write_text("{}\n")
    status = scene.ok("status")
    assert status["coordinator"]["reachable"] is True
    assert [problem.split(":")[0] for problem in status["problems"]] == ["budgets"]
    text = CliRunner().invoke(site_app, ["status", "--home", str(scene.home.folder)]).stdout
    assert "Not known: budgets" in text
    assert f"Coordinator: {scene.live.url}, reachable" in text


def test_rekeying_asks_for_the_old_passphrase_first(scene: Scene) -> None:
    scene.join()
    new = secret(scene.passphrase.with_name("new"), "quite another one")
    before = scene.home.keys.read_bytes()
    scene.fails("keys.passphrase", "rekey", "--passphrase-file", str(new), "--new-passphrase-file", str(new))
    scene.fails("keys.no_passphrase", "rekey", passphrase=True)
    assert scene.home.keys.read_bytes() == before
    scene.ok("rekey", "--new-passphrase-file", str(new), passphrase=True)
    scene.fails("keys.passphrase", "rotate", passphrase=True)
    scene.ok("rotate", "--passphrase-file", str(new))
    assert scene.actions() == ["keys.made", "coordinator.confirmed", "rekeyed", "rotated"]


def test_leaving_keeps_the_owner_s_proof(scene: Scene) -> None:
    scene.join()
    scene.fails("usage.not_confirmed", "leave", passphrase=True)
    assert [entry.name for entry in scene.live.registry.sites()] == ["alpha"]
    done = scene.ok("leave", "--yes", passphrase=True)
    assert (done["left"], done["keys_deleted"]) == ("alpha", False)
    assert scene.live.registry.sites() == []
    assert scene.home.keys.exists()
    assert scene.actions()[-1] == "left"
    scene.fails("link.not_enrolled", "rotate", passphrase=True)
    scene.fails("link.not_enrolled", "leave", "--yes", passphrase=True)
    assert scene.ok("leave", "--yes", "--delete-keys", passphrase=True)["keys_deleted"] is True
    assert not scene.home.keys.exists()
    assert scene.actions()[-1] == "left", "the log is still there"
    scene.fails("keys.absent", "rotate", passphrase=True)


def test_the_operator_lists_and_takes_back_invitations(scene: Scene) -> None:
    invitation = scene.operator("invite", "beta", "--organisation", "B")["invitation"]
    (known,) = scene.operator("invitations")["invitations"]
    assert (known["name"], known["state"]) == ("beta", "open")
    assert invitation not in json.dumps(known)
    assert scene.operator("revoke-invitation", known["id"])["invitation"]["name"] == "beta"
    assert scene.operator("invitations")["invitations"] == []
    status, answer = call(coordinator_app, "revoke-invitation", "beta", "--home", str(scene.live.home.folder))
    assert (status, answer["error"]["code"]) == (1, "link.no_invitation")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["revoke", "nobody", "--reason", "why not"], "link.no_member"),
        (["revoke", "beta", "--reason", ""], "usage.reason"),
        (["revoke", "beta", "--reason", "x" * 301], "usage.reason"),
    ],
)
def test_what_the_operator_cannot_revoke(scene: Scene, arguments: list[str], code: str) -> None:
    scene.live.member("beta")
    status, answer = call(coordinator_app, *arguments, "--home", str(scene.live.home.folder))
    assert (status, answer["error"]["code"]) == (1, code)
    assert len(scene.live.registry.members()) == 1
