"""`plasmid project`: proposed by a person, signed by sites, left by one; over a real coordinator's link."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.cli.verbs.project import app, projects_of
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.members.peers import Peer, Peers, write_peers
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.identity import fingerprint
from plasmid.uplink.enrol import Credential
from support.federation.live_link import PASSPHRASE, LiveLink

SITES = ("alpha", "beta")


@dataclass
class Parties:
    """Two sites and two people, each with its folder, and a file with the passphrase of all."""

    live: LiveLink
    folders: dict[str, Path]
    keys: dict[str, str]
    passphrase: Path

    def call(self, party: str, *arguments: str, text: bool = False) -> tuple[int, Any]:
        """Run a command with a party's folder; return its status and its answer."""
        how = ["--home", str(self.folders[party])]
        if arguments[0] != "leave":
            how += ["--passphrase-file", str(self.passphrase)]
        result = CliRunner().invoke(app, [*arguments, *how, *([] if text else ["--format", "json"])])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output if text else json.loads(result.stdout.splitlines()[-1])

    def ok(self, party: str, *arguments: str) -> dict[str, Any]:
        status, answer = self.call(party, *arguments)
        assert (status, answer["status"]) == (0, "ok"), answer
        return dict(answer["data"])

    def fails(self, party: str, code: str, *arguments: str) -> str:
        """Check that a command fails with *code*; return its message."""
        status, answer = self.call(party, *arguments)
        assert (status, answer["error"]["code"]) == (1, code), answer
        return str(answer["error"]["message"])

    def confirm(self, site: str, *others: str, **changes: Any) -> None:
        """Write a site's peers."""
        peers = [
            Peer(name=o, organisation=f"{o}-org", key=self.keys[o]).model_copy(update=changes) for o in others
        ]
        write_peers(
            SiteHome(self.folders[site]).peers, Peers(coordinator=self.live.identity.public, sites=peers)
        )


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parties]:
    with LiveLink(tmp_path_factory.mktemp("project")) as live:
        folders, keys = {}, {}
        for name in (*SITES, "ada", "bo"):
            credential, held = live.member(name, "site" if name in SITES else "person")
            folders[name], keys[name] = credential.folder, held.public
            if name in SITES:
                SiteHome(credential.folder).write_config(SiteConfig(name=name, organisation=f"{name}-org"))
        passphrase = live.folder / "passphrase"
        passphrase.write_text(PASSPHRASE)
        passphrase.chmod(0o600)
        yield Parties(live, folders, keys, passphrase)


@pytest.fixture
def parties(enrolled: Parties, monkeypatch: pytest.MonkeyPatch) -> Parties:
    monkeypatch.setenv("PLASMID_HOME", str(enrolled.live.folder / "nobody's"))
    for site, other in (("alpha", "beta"), ("beta", "alpha")):
        enrolled.confirm(site, other)
    return enrolled


New = Callable[..., str]


@pytest.fixture
def new(parties: Parties, request: pytest.FixtureRequest) -> New:
    """Return a function by which ada proposes a project, named after the test; it returns its digest."""
    name = request.node.name.split("[")[0].replace("_", "-")[-60:].lstrip("-")

    def propose(*more: str) -> str:
        how = ["--site", "alpha", "--site", "beta", "--purpose", "research", "--until", "2099-12-31", "--yes"]
        return str(parties.ok("ada", "new", name, *how, *more)["digest"])

    propose.name = name  # type: ignore[attr-defined]
    return propose


def test_a_project_from_its_proposal_to_its_end(parties: Parties, new: New) -> None:
    digest = new("--description", "To find [what] binds.", "--from", "2026-01-01")
    shown = parties.ok("ada", "show", digest)
    assert (shown["missing"], shown["signed_here"], shown["confirmed"]) == (["alpha", "beta"], None, None)
    project = shown["project"]
    assert [site["key"] for site in project["sites"]] == [parties.keys["alpha"], parties.keys["beta"]]
    assert project["people"] == [
        {"name": "ada", "organisation": "ada-org", "key": parties.keys["ada"], "roles": ["launch", "receive"]}
    ]
    assert (project["first_day"], project["last_day"]) == ("2026-01-01", "2099-12-31")
    assert parties.ok("alpha", "sign", digest, "--yes")["missing"] == ["beta"]
    seen = parties.ok("alpha", "show", new.name)  # type: ignore[attr-defined]
    assert (seen["missing"], seen["signed_here"], seen["confirmed"]) == (["beta"], True, ["beta"])
    assert parties.ok("beta", "show", digest)["signed_here"] is False
    assert parties.ok("beta", "sign", digest, "--yes")["missing"] == []
    (listed,) = [one for one in parties.ok("beta", "ls")["projects"] if one["digest"] == digest]
    assert (listed["missing"], listed["signed_here"]) == ([], True)
    site = SiteHome(parties.folders["beta"])
    projects_of(site).check(digest)
    assert parties.ok("beta", "leave", digest, "--yes") == {"digest": digest}
    assert digest not in projects_of(site).all()
    log = [(entry["action"], entry["object"], entry["actor"]) for entry in AuditLog(site.audit).entries()]
    assert log[-2:] == [("project.signed", digest, "owner"), ("project.left", digest, "owner")]
    parties.fails("beta", "project.not_signed_here", "leave", digest, "--yes")


def test_people_read_who_is_in_it_by_fingerprint(parties: Parties, new: New) -> None:
    digest = new("--description", "To find [what] binds.")
    parties.ok("alpha", "sign", digest, "--yes")
    status, text = parties.call("alpha", "show", digest, text=True)
    assert status == 0
    for name in ("alpha", "beta", "ada"):
        assert fingerprint(parties.keys[name]) in text
    for said in (
        "To find [what] binds.",
        "site alpha of alpha-org: has signed",
        "site beta of beta-org: has not signed, confirmed by you",
        "person ada of ada-org: may launch and receive",
        digest,
    ):
        assert said in text
    _, text = parties.call("ada", "ls", text=True)
    assert "waits for the signatures of beta" in text


def test_a_site_signs_only_with_peers_whom_its_owner_confirmed(parties: Parties, new: New) -> None:
    digest = new()
    home = SiteHome(parties.folders["alpha"])
    for how in ((), ("beta",)):
        parties.confirm("alpha", *how, **({"key": "1" * 64} if how else {}))
        message = parties.fails("alpha", "project.unconfirmed", "sign", digest, "--yes")
        assert message.endswith(": beta.")
    parties.confirm("alpha", "beta", organisation="elsewhere")
    parties.fails("alpha", "project.unconfirmed", "sign", digest, "--yes")
    assert digest not in projects_of(home).all()
    assert parties.ok("ada", "show", digest)["missing"] == ["alpha", "beta"]
    parties.confirm("alpha", "beta")
    parties.ok("alpha", "sign", digest, "--yes")  # control


def test_nothing_is_signed_proposed_or_left_without_a_word(parties: Parties, new: New) -> None:
    digest = new()
    parties.fails("alpha", "usage.not_confirmed", "sign", digest)
    assert digest not in projects_of(SiteHome(parties.folders["alpha"])).all()
    how = ("--site", "alpha", "--purpose", "x", "--until", "2099-12-31")
    parties.fails("ada", "usage.not_confirmed", "new", "unconfirmed", *how)
    assert "unconfirmed" not in [one["name"] for one in parties.ok("ada", "ls")["projects"]]
    parties.ok("alpha", "sign", digest, "--yes")
    parties.fails("alpha", "usage.not_confirmed", "leave", digest)
    projects_of(SiteHome(parties.folders["alpha"])).check(digest)


def test_people_have_roles(parties: Parties, new: New) -> None:
    digest = new("--person", "ada:receive,launch", "--person", "bo:receive")
    people = parties.ok("bo", "show", digest)["project"]["people"]
    assert [(one["name"], one["roles"]) for one in people] == [
        ("ada", ["launch", "receive"]),
        ("bo", ["receive"]),
    ]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("x", "--site", "alpha", "--purpose", "p", "--until", "2099-13-01"), "usage.project"),
        (("x", "--site", "alpha", "--purpose", "p", "--until", "2019-01-01"), "usage.project"),
        (("x", "--site", "alpha", "--purpose", "p", "--until", "tomorrow"), "usage.project"),
        (("X!", "--site", "alpha", "--purpose", "p", "--until", "2099-01-01"), "usage.project"),
        (("x", "--site", "alpha", "--purpose", "P P", "--until", "2099-01-01"), "usage.project"),
        (("x", "--site", "ada", "--purpose", "p", "--until", "2099-01-01"), "usage.role"),
        (
            ("x", "--site", "alpha", "--person", "beta:launch", "--purpose", "p", "--until", "2099-01-01"),
            "usage.role",
        ),
        (
            ("x", "--site", "alpha", "--person", "ada", "--purpose", "p", "--until", "2099-01-01"),
            "usage.role",
        ),
        (
            ("x", "--site", "alpha", "--person", "ada:own", "--purpose", "p", "--until", "2099-01-01"),
            "usage.role",
        ),
        (("x", "--site", "nobody", "--purpose", "p", "--until", "2099-01-01"), "link.no_member"),
        (("x", "--site", "../card", "--purpose", "p", "--until", "2099-01-01"), "usage.name"),
        (
            ("x", "--site", "alpha", "--person", "bo:launch", "--purpose", "p", "--until", "2099-01-01"),
            "project.not_member",
        ),
    ],
)
def test_what_is_no_project_is_refused_and_proposed_to_nobody(
    parties: Parties, arguments: tuple[str, ...], code: str
) -> None:
    before = parties.ok("ada", "ls")["projects"]
    parties.fails("ada", code, "new", *arguments, "--yes")
    assert parties.ok("ada", "ls")["projects"] == before


def test_the_wrong_passphrase_changes_nothing(parties: Parties, new: New, tmp_path: Path) -> None:
    digest = new()
    wrong = tmp_path / "wrong"
    wrong.write_text("not the passphrase of anybody")
    wrong.chmod(0o600)
    kept, parties.passphrase = parties.passphrase, wrong
    try:
        parties.fails("alpha", "keys.passphrase", "sign", digest, "--yes")
    finally:
        parties.passphrase = kept
    assert digest not in projects_of(SiteHome(parties.folders["alpha"])).all()


def test_a_project_that_is_not_there_is_said(parties: Parties) -> None:
    for verb in ("show", "sign"):
        parties.fails("alpha", "project.unknown", verb, "no-such-project")
    parties.fails("alpha", "project.not_signed_here", "leave", "no-such-project", "--yes")


def test_without_a_home_it_is_this_host_s_site_else_its_person(
    parties: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    (tmp_path / "client").symlink_to(parties.folders["bo"])
    how = ["ls", "--passphrase-file", str(parties.passphrase), "--format", "json"]
    mine = CliRunner().invoke(app, how)
    assert json.loads(mine.stdout)["data"]["projects"] == parties.ok("bo", "ls")["projects"]
    (tmp_path / "site").symlink_to(parties.folders["alpha"])
    site = CliRunner().invoke(app, how)
    assert json.loads(site.stdout)["data"]["projects"] == parties.ok("alpha", "ls")["projects"]
    for name in ("client", "site"):
        (tmp_path / name).unlink()
    nobody = CliRunner().invoke(app, how)
    assert json.loads(nobody.stdout)["error"]["code"] == "usage.not_enrolled"
    assert not Credential(tmp_path / "client").enrolled
