"""Named people: a record each, a key that only their own passphrase opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasmid.core.clock import parse
from plasmid.gateway.approvals.people import People, Person
from plasmid.gateway.keys.keystore import Cost
from plasmid.protocol.identity import verify
from support.federation.attacks import refusal

CHEAP = Cost(n=2)
SINCE = parse("2026-11-25T10:00:00Z")
SECRET = "correct horse battery"


def add(people: People, name: str = "ann", **changes: Any) -> Person:
    values: dict[str, Any] = {
        "full_name": "Ann Example",
        "role": "data protection officer",
        "passphrase": lambda: SECRET,
        "cost": CHEAP,
        "since": SINCE,
    }
    return people.add(name, **values | changes)


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "people")


def test_a_record_holds_the_printed_name_and_the_key(people: People) -> None:
    made = add(people)
    assert (made.name, made.full_name, made.role, made.since) == (
        "ann",
        "Ann Example",
        "data protection officer",
        "2026-11-25T10:00:00Z",
    )
    assert people.get("ann") == made
    assert people.all() == [made]


def test_the_own_passphrase_opens_the_key_and_no_other(people: People) -> None:
    made = add(people)
    signer = people.signer("ann", lambda: SECRET)
    verify(made.key, b"text", signer.sign(b"text"))
    with refusal("keys.passphrase"):
        people.signer("ann", lambda: "another passphrase")


def test_a_passphrase_is_asked_for_every_time(people: People) -> None:
    add(people)
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        return SECRET

    for count in (1, 2, 3):
        people.signer("ann", ask).sign(b"text")
        assert len(asked) == count


@pytest.mark.promise("keys-encrypted")
def test_neither_key_nor_passphrase_is_on_the_disk(people: People, tmp_path: Path) -> None:
    add(people)
    for path in (tmp_path / "people").iterdir():
        assert SECRET.encode() not in path.read_bytes()
    assert (tmp_path / "people" / "ann.keys.json").stat().st_mode & 0o077 == 0


def test_a_name_is_used_once(people: People) -> None:
    add(people)
    with refusal("usage.exists"):
        add(people)
    assert people.signer("ann", lambda: SECRET)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../ann"},
        {"name": "Ann"},
        {"name": ""},
        {"full_name": ""},
        {"full_name": "A\nB"},
        {"role": " "},
    ],
)
def test_what_cannot_be_a_record_is_refused(people: People, tmp_path: Path, changes: dict[str, str]) -> None:
    with refusal("usage.name"):
        add(people, **changes)
    assert people.all() == []
    assert not list(tmp_path.rglob("*.json"))


def test_a_short_passphrase_is_refused_and_leaves_nothing(people: People) -> None:
    with refusal("keys.weak_passphrase"):
        add(people, passphrase=lambda: "short")
    assert people.all() == []
    add(people)


@pytest.mark.parametrize("name", ["bob", "../ann", "ann.keys", ""])
def test_nobody_else_signs(people: People, name: str) -> None:
    add(people)
    with refusal("usage.no_person"):
        people.signer(name, lambda: SECRET)


def test_an_exchanged_key_signs_nothing(people: People, tmp_path: Path) -> None:
    add(people)
    add(people, "eve")
    folder = tmp_path / "people"
    (folder / "ann.keys.json").write_bytes((folder / "eve.keys.json").read_bytes())
    with refusal("keys.damaged"):
        people.signer("ann", lambda: SECRET)


def test_a_damaged_record_stops_everything(people: People, tmp_path: Path) -> None:
    add(people)
    (tmp_path / "people" / "ann.json").write_text("{}")
    with refusal("storage.person"):
        people.all()


def test_a_person_is_known_by_key_or_by_name(people: People) -> None:
    ann, bob = add(people), add(people, "bob")
    assert people.known_as(ann.key, None) == {"ann"}
    assert people.known_as("0" * 64, "bob") == {"bob"}
    assert people.known_as(ann.key, "bob") == {"ann", "bob"}
    assert people.known_as("0" * 64, None) == set()
    assert bob.key != ann.key
