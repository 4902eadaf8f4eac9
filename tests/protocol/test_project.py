"""A project: who is in it, what each may do, when it is in force, and what makes it another one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from plasmid.core.canonical import digest_json
from plasmid.core.errors import PlasmidError, ProjectRefused
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.project import Project, ProjectPerson, ProjectSite, open_project
from support.federation.in_memory import project_of, signed_by

NAMES = ("alpha", "beta", "gamma")
IDENTITIES = {name: Identity.generate(name) for name in NAMES}
ADA, BO = Identity.generate("ada"), Identity.generate("bo")
PROJECT = project_of(
    IDENTITIES, dict.fromkeys(NAMES, "A house"), ADA, first_day="2026-01-10", last_day="2026-03-31"
)


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


def person(identity: Identity, *roles: Any, **changes: Any) -> ProjectPerson:
    values = {"name": identity.name, "organisation": "lab", "key": identity.public, "roles": list(roles)}
    return ProjectPerson(**values | changes)


def changed(**changes: Any) -> Project:
    """Return the project with other fields, checked anew."""
    return Project.model_validate(dict(PROJECT) | changes)


def test_it_is_opened_with_all_signatures() -> None:
    envelope = signed_by(PROJECT, IDENTITIES)
    assert open_project(envelope) == PROJECT
    assert PROJECT.missing(envelope) == []


@pytest.mark.parametrize("signers", [(), ("alpha",), ("alpha", "gamma")])
def test_whoever_has_not_signed_is_named(signers: tuple[str, ...]) -> None:
    envelope = signed_by(PROJECT, {name: IDENTITIES[name] for name in signers})
    missing = [name for name in NAMES if name not in signers]
    assert PROJECT.missing(envelope) == missing
    with pytest.raises(ProjectRefused, match=", ".join(missing)) as caught:
        open_project(envelope)
    assert caught.value.code == "project.unsigned"


def test_a_person_or_a_stranger_signs_for_no_site() -> None:
    envelope = signed_by(PROJECT, {"alpha": IDENTITIES["alpha"], "beta": IDENTITIES["beta"]})
    for other in (ADA, Identity.generate("gamma")):
        with refusal("project.unsigned"):
            open_project(envelope.signed(other))


def test_signatures_of_another_project_count_for_nothing() -> None:
    other = signed_by(changed(description="other"), IDENTITIES)
    moved = Envelope.of(PROJECT).model_copy(update={"signatures": other.signatures})
    with refusal("protocol.signature"):
        open_project(moved)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"purpose": "other"},
        {"description": "x"},
        {"first_day": "2026-01-11"},
        {"last_day": "2026-04-01"},
        {"sites": PROJECT.sites[:2]},
        {"people": [person(ADA, "launch")]},
    ],
)
def test_a_change_is_another_project(changes: dict[str, Any]) -> None:
    assert set(changes) < set(Project.model_fields)
    assert changed(**changes).digest() != PROJECT.digest()
    assert changed().digest() == PROJECT.digest()


DELTA = ProjectSite(name="delta", organisation="A house", key=Identity.generate("delta").public)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sites": PROJECT.sites[::-1]}, "listed once each, by name"),
        ({"sites": [PROJECT.sites[0], PROJECT.sites[0]]}, "listed once each, by name"),
        ({"people": [person(BO, "launch"), person(ADA, "launch")]}, "listed once each, by name"),
        ({"sites": [PROJECT.sites[0], DELTA.model_copy(update={"key": PROJECT.sites[0].key})]}, "one key"),
        ({"people": [person(ADA, "launch"), person(BO, "launch", key=ADA.public)]}, "one key"),
        ({"people": [person(BO, "launch", key=PROJECT.sites[0].key)]}, "one key"),
        ({"people": [person(ADA, "receive", "launch")]}, "roles are listed once each"),
        ({"people": [person(ADA, "launch", "launch")]}, "roles are listed once each"),
        ({"first_day": "2026-04-01"}, "the last day is before the first"),
        ({"last_day": "2026-02-30"}, "day"),
        ({"last_day": "2026-3-1"}, "pattern"),
        ({"last_day": "٢٠٢٦-03-31"}, "pattern"),
        ({"sites": []}, "at least 1"),
        ({"people": []}, "at least 1"),
        ({"name": "../x"}, "pattern"),
        ({"name": ""}, "pattern"),
        ({"purpose": "Vaccine research"}, "pattern"),
        ({"description": "x" * 2001}, "2000"),
        ({"description": "signed\n  site zeta: confirmed by you"}, "pattern"),
        ({"description": "\x1b[2Jall is well"}, "pattern"),
        ({"description": "\u202eyduts"}, "pattern"),
        ({"version": 2}, "Input should be 1"),
        ({"more": 1}, "Extra"),
    ],
)
def test_what_is_no_project_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        changed(**changes)


@pytest.mark.parametrize("roles", [[], ["own"], ["launch", "receive", "own"]])
def test_roles_are_known(roles: list[str]) -> None:
    with pytest.raises(ValidationError):
        person(ADA, *roles)


def test_an_organisation_is_what_it_shows() -> None:
    for organisation in ("A\x9bhouse", "A\u2066house", "A\nhouse", "A\x7fhouse"):
        with pytest.raises(ValidationError):
            person(ADA, "launch", organisation=organisation)
    assert person(ADA, "launch", organisation="Hôpital Île-de-France [R&D], 東京")


def test_only_who_may_launch_launches() -> None:
    project = changed(people=[person(ADA, "launch"), person(BO, "receive")])
    assert project.launcher("ada").key == ADA.public
    for name in ("bo", "alpha", "nobody", ""):
        with pytest.raises(ProjectRefused, match="may launch runs in the project trial") as caught:
            project.launcher(name)
        assert caught.value.code == "project.requester"


def test_the_audience_is_who_receives_and_nothing_else() -> None:
    both = changed(people=[person(ADA, "launch"), person(BO, "launch", "receive")])
    assert both.audience == digest_json([["bo", "lab", BO.public]])
    fewer = changed(people=[person(BO, "receive")])
    assert fewer.audience == both.audience
    assert changed(people=[person(ADA, "receive"), person(BO, "receive")]).audience != both.audience


def test_a_run_reaches_members_alone() -> None:
    PROJECT.check_reach(["alpha", "gamma"])
    assert PROJECT.site("beta").key == IDENTITIES["beta"].public
    with pytest.raises(ProjectRefused, match="delta, zeta: not in the project trial") as caught:
        PROJECT.check_reach(["alpha", "zeta", "delta"])
    assert caught.value.code == "project.reach"
    with refusal("project.reach"):
        PROJECT.site("delta")


@pytest.mark.parametrize(
    ("time", "in_force"),
    [
        (datetime(2026, 1, 9, 23, 59, 59, tzinfo=UTC), False),
        (datetime(2026, 1, 10, tzinfo=UTC), True),
        (datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC), True),
        (datetime(2026, 4, 1, tzinfo=UTC), False),
        # a clock in Tokyo: the day is that of UTC
        (datetime(2026, 1, 10, 8, 59, tzinfo=timezone(timedelta(hours=9))), False),
        (datetime(2026, 4, 1, 8, 59, tzinfo=timezone(timedelta(hours=9))), True),
    ],
)
def test_the_days_are_inclusive_and_utc(time: datetime, *, in_force: bool) -> None:
    if in_force:
        PROJECT.check_dates(time)
        return
    with pytest.raises(ProjectRefused, match="in force from 2026-01-10 to 2026-03-31") as caught:
        PROJECT.check_dates(time)
    assert caught.value.code == "project.dates"
