"""The coordinator's registry of projects, over real TLS: who proposes, who signs, who learns of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from plasmid.core.errors import LinkError, ProjectRefused
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.project import Project, ProjectPerson, ProjectSite
from plasmid.uplink.link import LinkClient
from plasmid.uplink.projects import (
    fetch_member,
    fetch_projects,
    find_project,
    launchable,
    put_project,
    standing,
)
from support.federation.attacks import refusal
from support.federation.in_memory import signed_by
from support.federation.live_link import LiveLink

SITES, PEOPLE = ("alpha", "beta", "gamma"), ("ada", "bo")


@dataclass
class Party:
    """A member with its key and its client."""

    identity: Identity
    link: LinkClient


Parties = dict[str, Party]


@pytest.fixture(scope="module")
def parties(live: LiveLink) -> Iterator[Parties]:
    made = {}
    for name in (*SITES, *PEOPLE):
        credential, keys = live.member(name, "site" if name in SITES else "person")
        made[name] = Party(keys.identity(), credential.connect(keys, patience_s=0.0))
    yield made
    for party in made.values():
        party.link.close()


Make = Callable[..., Project]


@pytest.fixture
def make(parties: Parties, request: pytest.FixtureRequest) -> Make:
    """Return a function that makes a project of alpha and beta, and of ada; no two tests make the same."""

    def made(
        *, sites: tuple[str, ...] = ("alpha", "beta"), people: tuple[str, ...] = ("ada",), **changes: Any
    ) -> Project:
        values: dict[str, Any] = {
            "name": "trial",
            "purpose": "research",
            "description": request.node.name,
            "sites": [
                ProjectSite(name=name, organisation=f"{name}-org", key=parties[name].identity.public)
                for name in sites
            ],
            "people": [
                ProjectPerson(
                    name=name,
                    organisation=f"{name}-org",
                    key=parties[name].identity.public,
                    roles=["launch", "receive"],
                )
                for name in people
            ],
            "first_day": "2026-01-01",
            "last_day": "2099-12-31",
        }
        return Project(**values | changes)

    return made


def digests(party: Party) -> list[str]:
    return [one.digest for one in fetch_projects(party.link)]


def test_a_project_is_proposed_and_signed_one_by_one(parties: Parties, make: Make) -> None:
    project = make()
    digest = put_project(parties["ada"].link, Envelope.of(project))
    assert digest == project.digest()
    for done, site in enumerate(("beta", "alpha"), start=1):
        found = find_project(fetch_projects(parties[site].link), digest)
        assert found.project == project
        put_project(parties[site].link, found.envelope.signed(parties[site].identity))
        one = find_project(fetch_projects(parties["ada"].link), digest)
        assert len(one.project.missing(one.envelope)) == 2 - done
    assert launchable([one], "ada").digest == digest
    assert standing(one, {"beta": ("beta-org", parties["beta"].identity.public)}) == [
        ("alpha", True, False),
        ("beta", True, True),
    ]


def test_a_signature_is_never_lost(parties: Parties, make: Make) -> None:
    """Two owners sign what they were shown, at the same time; a late proposal takes nothing away."""
    project = make()
    envelope = Envelope.of(project)
    put_project(parties["ada"].link, envelope)
    for site in ("alpha", "beta"):
        put_project(parties[site].link, envelope.signed(parties[site].identity))
    put_project(parties["ada"].link, envelope)
    (one,) = [one for one in fetch_projects(parties["ada"].link) if one.digest == project.digest()]
    assert one.project.missing(one.envelope) == []


def test_a_project_may_be_proposed_with_all_signatures(parties: Parties, make: Make) -> None:
    project = make(name="whole")
    put_project(parties["ada"].link, signed_by(project, {n: p.identity for n, p in parties.items()}))
    one = find_project(fetch_projects(parties["beta"].link), "whole")
    assert one.project.missing(one.envelope) == []


def test_signatures_of_strangers_are_not_kept_and_forged_ones_refused(parties: Parties, make: Make) -> None:
    envelope = Envelope.of(make())
    put_project(
        parties["ada"].link, envelope.signed(parties["gamma"].identity).signed(parties["ada"].identity)
    )
    one = find_project(fetch_projects(parties["ada"].link), make().digest())
    assert one.envelope.signatures == []
    (mark,) = envelope.signed(parties["gamma"].identity).signatures
    forged = mark.model_copy(update={"keyid": parties["alpha"].identity.public})
    with refusal("protocol.signature"):
        put_project(parties["ada"].link, envelope.model_copy(update={"signatures": [forged]}))


def test_only_members_propose_and_learn_of_it(parties: Parties, make: Make) -> None:
    project = make()
    for stranger in ("gamma", "bo"):
        with refusal("project.not_member"):
            put_project(parties[stranger].link, Envelope.of(project))
    put_project(parties["alpha"].link, Envelope.of(project))  # a site may propose, too
    digest = project.digest()
    for stranger in ("gamma", "bo"):
        assert digest not in digests(parties[stranger])
        with refusal("project.unknown"):
            parties[stranger].link.request("GET", f"/v1/projects/{digest}")
    with refusal("project.unknown"):
        parties["alpha"].link.request("GET", f"/v1/projects/{'0' * 64}")
    assert all(digest in digests(parties[member]) for member in ("alpha", "beta", "ada"))
    shown = parties["beta"].link.request("GET", f"/v1/projects/{digest}").json()
    assert Envelope.model_validate(shown) == Envelope.of(project)


def test_a_member_is_who_is_enrolled(parties: Parties, make: Make) -> None:
    """Another key, another organisation or another role than the coordinator has it is nobody."""
    alpha, beta = make().sites
    (ada,) = make().people
    other = Identity.generate("beta").public
    for changes in (
        {"sites": [alpha, beta.model_copy(update={"key": other})]},
        {"sites": [alpha, beta.model_copy(update={"organisation": "elsewhere"})]},
        {"sites": [alpha, beta.model_copy(update={"name": "beta-2"})]},
        {"people": [ada, ada.model_copy(update={"name": "beta", "key": beta.key})], "sites": [alpha]},
    ):
        with pytest.raises(ProjectRefused, match=r"not enrolled here under .*: beta") as caught:
            put_project(parties["ada"].link, Envelope.of(Project.model_validate(dict(make()) | changes)))
        assert caught.value.code == "project.member"


def test_what_is_no_project_is_refused(parties: Parties) -> None:
    for content in (b"", b"{}", Envelope(payload=b"{}", payloadType=Project.payload_type()).wire()):
        with refusal("protocol.malformed"):
            parties["ada"].link.request("POST", "/v1/projects", content=content)


def test_a_name_that_several_have_is_listed_by_digest(parties: Parties, make: Make) -> None:
    both = [make(name="twice", purpose=purpose) for purpose in ("one", "two")]
    for project in both:
        put_project(parties["ada"].link, Envelope.of(project))
    known = fetch_projects(parties["ada"].link)
    with pytest.raises(ProjectRefused, match="2 projects are called twice") as caught:
        find_project(known, "twice")
    assert caught.value.code == "project.ambiguous"
    assert all(project.digest() in caught.value.message for project in both)
    assert find_project(known, both[1].digest()).project == both[1]
    with refusal("project.unknown"):
        find_project(known, "nothing")


def test_the_project_to_launch_in_is_the_only_one(parties: Parties, make: Make) -> None:
    """Neither one that has not been signed by all counts, nor one in which bo may only receive."""
    signers = {name: party.identity for name, party in parties.items()}
    bo = make(people=("bo",)).people[0]
    receiver = Project.model_validate(
        dict(make()) | {"people": [*make().people, bo.model_copy(update={"roles": ["receive"]})]}
    )
    first, second = (make(people=("bo",), purpose=purpose) for purpose in ("first", "second"))
    put_project(parties["alpha"].link, Envelope.of(make(people=("bo",))))
    put_project(parties["alpha"].link, signed_by(receiver, signers))
    with refusal("project.unknown"):
        launchable(fetch_projects(parties["bo"].link), "bo")
    put_project(parties["bo"].link, signed_by(first, signers))
    assert launchable(fetch_projects(parties["bo"].link), "bo").project == first
    put_project(parties["bo"].link, signed_by(second, signers))
    with pytest.raises(ProjectRefused, match="bo may launch runs in 2 projects") as caught:
        launchable(fetch_projects(parties["bo"].link), "bo")
    assert caught.value.code == "project.ambiguous"


def test_a_member_is_looked_up_by_name(parties: Parties) -> None:
    found = fetch_member(parties["alpha"].link, "ada")
    assert (found.role, found.organisation, found.key) == (
        "person",
        "ada-org",
        parties["ada"].identity.public,
    )
    with refusal("link.no_member"):
        fetch_member(parties["ada"].link, "nobody")
    for name in ("../card", "ada?x=1", "", "Ada"):
        with refusal("usage.name"):
            fetch_member(parties["ada"].link, name)


def test_an_answer_about_somebody_else_is_refused(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that answers with another member's card."""
    link = parties["ada"].link
    real = link.request
    monkeypatch.setattr(
        link, "request", lambda method, path, **rest: real(method, "/v1/members/beta", **rest)
    )
    with pytest.raises(LinkError, match="asked about alpha, the coordinator answered about beta"):
        fetch_member(link, "alpha")
