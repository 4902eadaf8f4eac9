"""What a site has signed, and what it checks of a request before anything else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from plasmid.core.clock import now, stamp
from plasmid.core.errors import PlasmidError, ProjectRefused
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.members.peers import Peer, Peers, read_peers, write_peers
from plasmid.gateway.members.projects import (
    Projects,
    check_confirmed,
    check_request,
    leave_project,
    sign_project,
)
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Manifest
from plasmid.protocol.project import Project
from support.federation.attacks import FOUR, never, refusal
from support.federation.in_memory import Federation, full_disk, project_of, signed_by

ZEROS = np.zeros(6, np.float32)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path, sites=FOUR)


def projects(federation: Federation, site: str = "alpha") -> Projects:
    return federation.gateways[site].projects


def consent(federation: Federation, site: str = "alpha") -> Path:
    """Return the file that holds a site's consent."""
    return federation.home(site).projects / f"{federation.project.digest()}.json"


def another(federation: Federation, **changes: object) -> Project:
    organisations = {site: federation.organisation(site) for site in federation.sites}
    return project_of(federation.identities, organisations, federation.requester, **changes)


# -- consent ---------------------------------------------------------------------------------------


def test_what_a_site_has_signed_is_known_after_a_restart(federation: Federation) -> None:
    digest = federation.project.digest()
    again = federation.restart("alpha").projects
    again.check(digest)
    assert again.all() == {digest: federation.project}


@pytest.mark.promise("project-decides")
def test_without_the_file_nothing_is_admitted(federation: Federation) -> None:
    assert federation.admit("alpha").accepted  # control
    consent(federation).unlink()
    assert federation.admit("alpha").code == "project.not_signed_here"
    assert federation.admit("beta").accepted


def test_a_file_that_somebody_put_there_is_no_consent(federation: Federation) -> None:
    """All the other sites' signatures, and even one under this site's name, do not make this site's own."""
    own = federation.identities["alpha"]
    others = {name: key for name, key in federation.identities.items() if name != "alpha"}
    forged = signed_by(federation.project, others)
    impostor = another(federation, name="theirs")
    impostor = impostor.model_copy(
        update={"sites": [site.model_copy(update={"key": "1" * 64}) for site in impostor.sites[:1]]}
    )
    for envelope in (forged, Envelope.of(federation.project), Envelope.of(impostor).signed(own)):
        with refusal("project.not_signed_here"):
            projects(federation).keep(envelope)
        consent(federation).write_bytes(envelope.wire())
        with refusal("project.not_signed_here"):
            projects(federation).check(federation.project.digest())
    projects(federation).keep(forged.signed(own))  # control
    projects(federation).check(federation.project.digest())


def test_a_file_under_another_name_is_no_consent(federation: Federation) -> None:
    other = another(federation, description="other").digest()
    consent(federation).rename(consent(federation).with_name(f"{other}.json"))
    with refusal("project.not_signed_here"):
        projects(federation).check(other)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_named_and_no_consent(federation: Federation, content: bytes) -> None:
    consent(federation).write_bytes(content)
    for ask in (lambda: projects(federation).check(federation.project.digest()), projects(federation).all):
        with pytest.raises(ProjectRefused, match="is damaged") as caught:
            ask()
        assert caught.value.code == "project.not_signed_here"
        assert str(consent(federation)) in caught.value.message


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_no_path_is_made_from_what_is_no_digest(federation: Federation, digest: str) -> None:
    with refusal("protocol.malformed"):
        projects(federation).check(digest)


def test_signing_is_logged_before_it_counts(federation: Federation) -> None:
    gateway, other = federation.gateways["alpha"], another(federation, name="second", purpose="teaching")
    signer = federation.identities["alpha"]
    with full_disk(gateway), pytest.raises(PlasmidError, match="no space left"):
        sign_project(Envelope.of(other), signer, gateway.projects, gateway.audit)
    assert other.digest() not in gateway.projects.all()
    signed = sign_project(Envelope.of(other), signer, gateway.projects, gateway.audit)
    assert other.missing(signed) == ["beta", "delta", "gamma"]
    gateway.projects.check(other.digest())
    line = federation.log("alpha")[-1]
    assert (line["action"], line["object"], line["actor"]) == ("project.signed", other.digest(), "owner")
    assert (line["name"], line["purpose"]) == ("second", "teaching")


def test_a_site_signs_only_what_it_is_in(federation: Federation) -> None:
    gateway, stranger = federation.gateways["alpha"], Identity.generate("zeta")
    with refusal("project.reach"):
        sign_project(federation.envelope, stranger, gateway.projects, gateway.audit)
    with refusal("project.member"):  # its name, another key
        sign_project(federation.envelope, Identity.generate("alpha"), gateway.projects, gateway.audit)


def test_members_are_those_whom_the_owner_confirmed(federation: Federation) -> None:
    peers = read_peers(federation.home("alpha").peers)
    check_confirmed(federation.project, me="alpha", peers=peers)
    fewer = peers.model_copy(update={"sites": peers.sites[1:]})
    swapped = [
        peer.model_copy(update={"key": f"{number}" * 64}) for number, peer in enumerate(peers.sites, start=1)
    ]
    renamed = [peer.model_copy(update={"organisation": "elsewhere"}) for peer in peers.sites]
    for known, named in (
        (fewer, "beta"),
        (Peers(coordinator=peers.coordinator, sites=swapped), "beta, delta, gamma"),
        (Peers(coordinator=peers.coordinator, sites=renamed), "beta, delta, gamma"),
    ):
        with pytest.raises(ProjectRefused, match=f": {named}") as caught:
            check_confirmed(federation.project, me="alpha", peers=known)
        assert caught.value.code == "project.unconfirmed"


# -- leaving ---------------------------------------------------------------------------------------


def test_leaving_ends_what_is_under_way(federation: Federation) -> None:
    federation.set_up()
    gateway, digest = federation.gateways["alpha"], federation.project.digest()
    assert gateway.contribute(federation.manifest(1), lambda _: ZEROS).body  # control
    leave_project(digest, gateway.projects, gateway.audit)
    line = federation.log("alpha")[-1]
    assert (line["action"], line["object"], line["actor"]) == ("project.left", digest, "owner")
    with refusal("project.not_signed_here"):
        gateway.contribute(federation.manifest(2), never)
    with refusal("project.not_signed_here"):
        gateway.begin_epoch(federation.epoch(epoch=2))
    assert federation.admit("alpha").code == "project.not_signed_here"
    with refusal("project.not_signed_here"):
        leave_project(digest, gateway.projects, gateway.audit)


@pytest.mark.promise("asked-again")
def test_leaving_while_a_round_is_computed_lets_nothing_out(federation: Federation) -> None:
    federation.set_up()
    gateway = federation.gateways["alpha"]

    def compute(_: Manifest) -> np.ndarray:
        leave_project(federation.project.digest(), gateway.projects, gateway.audit)
        return ZEROS

    with refusal("project.not_signed_here"):
        gateway.contribute(federation.manifest(1), compute)
    assert "released" not in [line["action"] for line in federation.log("alpha")]


# -- a request -------------------------------------------------------------------------------------


def test_a_request_that_passes_is_known_with_its_project_and_requester(federation: Federation) -> None:
    made = check_request(federation.admitting(), projects(federation), time=now())
    assert (made.project, made.requester.name) == (federation.project, "ada")
    assert made.reach == set(FOUR)
    some = check_request(federation.admitting(sites=["alpha", "beta"]), projects(federation), time=now())
    assert some.reach == {"alpha", "beta"}
    accepted = federation.gateways["alpha"].answer(federation.admitting())
    assert accepted.accepted
    line = federation.log("alpha")[-1]
    assert (line["project"], line["requester"]) == (federation.project.digest(), "ada")


def at(federation: Federation, time: datetime, **changes: object) -> str:
    """Return what alpha answers, by its clock, to a request."""
    gateway = Gateway(
        federation.home("alpha"), federation.keys("alpha"), source=federation, clock=lambda: time
    )
    return gateway.answer(federation.admitting(**changes)).code


@pytest.mark.promise("project-decides", "asked-again")
def test_a_project_runs_within_its_days(tmp_path: Path) -> None:
    day = timedelta(days=1)
    today = now()
    federation = Federation(tmp_path, sites=FOUR)
    project = another(
        federation, first_day=stamp(today - day)[:10], last_day=stamp(today + day)[:10], name="short"
    )
    federation.project, federation.envelope = project, signed_by(project, federation.identities)
    for site in FOUR:
        projects(federation, site).keep(federation.envelope)
    federation.new_run("within")
    assert at(federation, today) == ""
    # a request of before its first day does not become one of it later
    assert at(federation, today, requested=stamp(today - 2 * day)) == "project.dates"
    federation.set_up()
    assert at(federation, today + 2 * day) == "project.dates"
    # a run that has begun goes on after the last day
    gateway = federation.gateways["alpha"]
    gateway._clock = gateway.audit._clock = lambda: today + 2 * day
    assert gateway.contribute(federation.manifest(1), lambda _: ZEROS).body


def test_a_request_is_not_from_the_future(federation: Federation) -> None:
    time = datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert at(federation, time, requested=stamp(time + timedelta(minutes=5))) == ""
    assert (
        at(federation, time, requested=stamp(time + timedelta(minutes=5, seconds=1))) == "project.requested"
    )
    assert at(federation, time, requested=stamp(time - timedelta(days=300))) == ""


def test_a_roster_stays_within_what_was_requested(federation: Federation) -> None:
    some = federation.admitting(sites=["alpha", "beta", "gamma"])
    gateway = federation.gateways["alpha"]
    assert gateway.answer(some).accepted
    with pytest.raises(ProjectRefused, match="delta: not among the sites that ada invited") as caught:
        gateway.begin_epoch(federation.epoch(run=some.run))
    assert caught.value.code == "project.reach"
    assert gateway.begin_epoch(federation.epoch(run=some.run, roster=["alpha", "beta", "gamma"])) is not None
    # nor is a site asked that was not invited
    assert federation.gateways["delta"].answer(some).code == "project.reach"


def test_a_member_whom_the_owner_knows_under_another_key_is_in_no_roster(federation: Federation) -> None:
    federation.admit_all()
    home = federation.home("alpha")
    peers = read_peers(home.peers)
    other = [
        Peer(
            name=peer.name, organisation=peer.organisation, key="1" * 64 if peer.name == "beta" else peer.key
        )
        for peer in peers.sites
    ]
    write_peers(home.peers, peers.model_copy(update={"sites": other}))
    with pytest.raises(ProjectRefused, match="name other keys for beta") as caught:
        federation.gateways["alpha"].begin_epoch(federation.epoch())
    assert caught.value.code == "project.member"
