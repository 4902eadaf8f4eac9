"""`plasmid login`: a person's keys are made under a passphrase, enrolled, and opened again with it alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.client import Coordinator
from plasmid.client.verbs.login import app
from plasmid.gateway.keys.keystore import EncryptedFile
from plasmid.gateway.keys.passphrase import from_file
from plasmid.protocol.identity import fingerprint
from plasmid.uplink.enrol import Credential, fetch_roster
from support.federation.attacks import refusal
from support.federation.live_link import PASSPHRASE, LiveLink


@dataclass
class Person:
    """Somebody with an invitation, a home and a file with a passphrase."""

    live: LiveLink
    folder: Path
    passphrase: Path
    invitation: str

    def login(self, *more: str, fingerprint_of: str | None = None) -> tuple[int, Any]:
        shown = fingerprint(fingerprint_of or self.live.identity.public)
        how = ["ada", "--coordinator", self.live.url, "--invitation", self.invitation]
        how += ["--organisation", "lab", "--coordinator-fingerprint", shown, *more, "--format", "json"]
        result = CliRunner().invoke(app, how)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, json.loads(result.stdout.splitlines()[-1])

    def fails(self, code: str, *more: str, **changes: Any) -> None:
        status, answer = self.login(*more, **changes)
        assert (status, answer["error"]["code"]) == (1, code)

    @property
    def keys(self) -> Path:
        return self.folder / "client" / "keys.json"

    def file(self, text: str, name: str = "other") -> str:
        path = self.passphrase.with_name(name)
        path.write_text(text)
        path.chmod(0o600)
        return str(path)


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PLASMID_PASSPHRASE_FILE", raising=False)
    with LiveLink(tmp_path / "link") as live:
        made = Person(
            live=live,
            folder=tmp_path / "home",
            passphrase=tmp_path / "words",
            invitation=live.registry.invite(name="ada", role="person", organisation="lab"),
        )
        made.file(PASSPHRASE + "\n", "words")
        yield made


def test_a_person_is_enrolled_and_comes_back_with_the_passphrase(person: Person) -> None:
    status, answer = person.login("--passphrase-file", str(person.passphrase))
    assert (status, answer["data"]["name"]) == (0, "ada")
    (member,) = person.live.registry.members()
    assert (member.name, member.role, member.organisation) == ("ada", "person", "lab")
    assert answer["data"]["own_fingerprint"] == fingerprint(member.key)
    assert person.keys.stat().st_mode & 0o777 == 0o600
    identity = EncryptedFile(person.keys, lambda: PASSPHRASE).identity()
    assert identity.public == member.key
    coordinator = Coordinator(passphrase=from_file(person.passphrase))
    assert (coordinator.public, fetch_roster(coordinator.link)) == (member.key, ([], []))
    coordinator.close()
    with refusal("keys.passphrase"):
        Coordinator(passphrase=from_file(Path(person.file("not the passphrase"))))
    with refusal("keys.no_passphrase"):  # which is asked for at the terminal, and there is none
        Coordinator()
    person.fails("usage.exists", "--passphrase-file", str(person.passphrase))


def test_what_goes_wrong_leaves_no_keys_and_the_invitation_as_it_was(person: Person) -> None:
    person.fails("keys.no_passphrase")
    person.fails("keys.weak_passphrase", "--passphrase-file", person.file("too short"))
    person.fails("keys.passphrase_file", "--passphrase-file", str(person.folder / "nowhere"))
    how = ["--passphrase-file", str(person.passphrase)]
    person.fails("protocol.fingerprint", *how, fingerprint_of="ab" * 32)
    assert not person.keys.exists()
    assert not Credential(person.folder / "client").enrolled
    assert [known.state for known in person.live.registry.invitations()] == ["open"]
    assert person.login(*how)[0] == 0, "the control"
