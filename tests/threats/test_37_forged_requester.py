"""Threat 37: a forged requester, and a run outside its project.

Each gateway checks the requester's own signature, under the key that its own signed project names. The
coordinator can keep a request back; it cannot make one, change one, or send one where it does not belong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasmid.gateway.sentences import SENTENCES
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admit, Ask, Signed, StopRequest, run_id, sign
from plasmid.protocol.project import Project, ProjectPerson, ProjectSite
from plasmid.recipes.query import PingDocument
from support.federation.attacks import FOUR, refusal
from support.federation.in_memory import Federation, project_of, signed_by

EVE, BO = Identity.generate("eve"), Identity.generate("bo")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Four sites and a project; the document asks for three of them at least."""
    return Federation(tmp_path, sites=FOUR)


def person(identity: Identity, *roles: Any) -> ProjectPerson:
    return ProjectPerson(name=identity.name, organisation="lab", key=identity.public, roles=sorted(roles))


def variant(federation: Federation, **changes: Any) -> Project:
    organisations = {site: federation.organisation(site) for site in federation.sites}
    return project_of(federation.identities, organisations, federation.requester, **changes)


def adopt(federation: Federation, project: Project) -> None:
    """Have every site sign *project*, and make it the one of the run."""
    federation.project, federation.envelope = project, signed_by(project, federation.identities)
    for site in federation.sites:
        federation.gateways[site].projects.keep(federation.envelope)
    federation.new_run("adopted")


def refused(
    federation: Federation,
    code: str,
    request: Signed,
    *,
    envelope: Envelope | None = None,
    run: str | None = None,
) -> None:
    """Check that no site answers otherwise than with *code*, and that none holds the run."""
    envelope = envelope or federation.envelope
    for site in federation.sites:
        gateway = federation.gateways[site]
        before = gateway.ledger.entries()
        questions = [Ask(run="ask-1", request=request, project=envelope)]
        answers = [gateway.answer(asked) for asked in questions] if run is None else []
        admit = Admit(run=run or federation.run, request=request, project=envelope)
        for answer in (*answers, gateway.answer(admit)):
            assert (answer.accepted, answer.code) == (False, code)
            assert answer.sentence == SENTENCES[code]
        with refusal("run.unknown"):
            gateway.run(admit.run)
        assert gateway.ledger.entries() == before
        assert federation.log(site)[-1]["result"] == "refused"


def test_control_a_genuine_request_passes_everywhere(federation: Federation) -> None:
    for site in FOUR:
        assert federation.gateways[site].answer(federation.asking()).accepted
        assert federation.admit(site).accepted
    federation.key_epoch()
    assert all(federation.gateways[site].run(federation.run).requester == "ada" for site in FOUR)


# -- forged requesters -----------------------------------------------------------------------------


@pytest.mark.promise("project-decides")
def test_the_coordinator_makes_no_request(federation: Federation) -> None:
    """It knows every name and every word of a request; it lacks a member's key."""
    for forger in (federation.coordinator, EVE, federation.identities["beta"]):
        signed = sign(forger, federation.request())
        refused(federation, "project.requester", signed)
        refused(federation, "protocol.signature", signed.model_copy(update={"signer": "ada"}))


def test_a_request_is_not_changed_on_its_way(federation: Federation) -> None:
    """One field each; the id is then that of the changed request, as a coordinator would name the run."""
    signed = federation.signed_request()
    longer = {**federation.values, "rounds": 3}
    for field, value in {
        "document": longer,
        "digest": "0" * 64,
        "project": "0" * 64,
        "sites": ["alpha", "beta", "gamma"],
        "requested": "2026-01-01T00:00:00Z",
        "nonce": "1" * 32,
    }.items():
        changed = signed.model_copy(update={"payload": {**signed.payload, field: value}})
        run = run_id(federation.request(**{field: value}))
        refused(federation, "protocol.signature", changed, run=run)


def test_another_message_of_the_requester_is_no_request(federation: Federation) -> None:
    refused(federation, "protocol.malformed", sign(federation.requester, StopRequest(run="run-1")))


@pytest.mark.promise("project-decides")
def test_who_may_only_receive_launches_nothing(federation: Federation) -> None:
    adopt(
        federation,
        variant(federation, people=[person(federation.requester, "launch"), person(BO, "receive")]),
    )
    refused(federation, "project.requester", sign(BO, federation.request()))
    assert federation.admit("alpha").accepted  # control


# -- forged projects -------------------------------------------------------------------------------


def with_eve(federation: Federation) -> Project:
    """Return the project with one more launcher, whom the coordinator has invented."""
    return variant(
        federation, people=[person(federation.requester, "launch", "receive"), person(EVE, "launch")]
    )


@pytest.mark.promise("project-decides")
def test_a_project_that_its_members_did_not_sign_lets_nobody_launch(federation: Federation) -> None:
    """Not signed here; or signed here alone, or by all but one."""
    project = with_eve(federation)
    signed = sign(EVE, federation.request(project=project.digest()))
    none = Envelope.of(project)
    refused(federation, "project.not_signed_here", signed, envelope=none)
    refused(federation, "project.not_signed_here", signed, envelope=none.signed(federation.coordinator))
    others = signed_by(project, {name: federation.identities[name] for name in FOUR if name != "gamma"})
    for site in FOUR:
        federation.gateways[site].projects.keep(others.signed(federation.identities[site]))
    refused(federation, "project.unsigned", signed, envelope=others)
    refused(federation, "project.unsigned", signed, envelope=none)
    moved = others.model_copy(update={"signatures": federation.envelope.signatures})
    refused(federation, "protocol.signature", signed, envelope=moved)
    # control: with the last signature she may
    whole = others.signed(federation.identities["gamma"])
    admit = Admit(run=run_id(federation.request(project=project.digest())), request=signed, project=whole)
    assert federation.gateways["alpha"].answer(admit).accepted


def test_a_project_under_the_coordinator_s_keys_is_another_one(federation: Federation) -> None:
    """The same names, and keys that the coordinator made: complete in itself, and signed by no site."""
    made = {site: Identity.generate(site) for site in FOUR}
    organisations = {site: federation.organisation(site) for site in FOUR}
    project = project_of(made, organisations, EVE)
    signed = sign(EVE, federation.request(project=project.digest()))
    refused(federation, "project.not_signed_here", signed, envelope=signed_by(project, made))


def test_a_request_stays_in_its_project(federation: Federation) -> None:
    """Ada may launch in both, and all have signed both; she asked in the first, for another audience."""
    first = federation.signed_request()
    second = variant(
        federation, name="second", people=[person(federation.requester, "launch"), person(EVE, "receive")]
    )
    run = federation.run
    adopt(federation, second)
    federation.run = run
    refused(federation, "project.differs", first)
    federation.new_run("in the second")
    assert federation.admit("alpha").accepted  # control


# -- outside the project ---------------------------------------------------------------------------


@pytest.mark.promise("project-decides")
def test_only_the_project_s_sites_are_reached(federation: Federation) -> None:
    """A fifth site that all know, and that even has a policy for it, is no member."""
    three = variant(federation)
    three = three.model_copy(update={"sites": [site for site in three.sites if site.name != "delta"]})
    signers = {name: key for name, key in federation.identities.items() if name != "delta"}
    federation.project, federation.envelope = three, signed_by(three, signers)
    for site in signers:
        federation.gateways[site].projects.keep(federation.envelope)
    federation.new_run("three")
    assert federation.admit("delta").code == "project.not_signed_here"
    for site in signers:
        assert federation.admit(site).accepted
    with refusal("project.reach"):
        federation.gateways["alpha"].begin_epoch(federation.epoch())
    assert not federation.home("alpha").runs.exists()
    # the requester cannot invite it either
    wide = federation.admitting(sites=list(FOUR))
    assert federation.gateways["alpha"].answer(wide).code == "project.reach"
    roster = sorted(signers)
    assert federation.gateways["alpha"].begin_epoch(federation.epoch(roster=roster)) is not None  # control


def test_a_site_that_was_not_invited_is_not_asked_instead(federation: Federation) -> None:
    request = federation.admitting(sites=["alpha", "beta", "gamma"])
    assert federation.gateways["delta"].answer(request).code == "project.reach"
    assert federation.gateways["alpha"].answer(request).accepted  # control
    with refusal("project.reach"):
        federation.gateways["alpha"].begin_epoch(
            federation.epoch(run=request.run, roster=["alpha", "beta", "delta"])
        )


def test_a_stranger_does_not_join_a_roster(federation: Federation) -> None:
    zeta = ProjectSite(name="zeta", organisation="Z", key=Identity.generate("zeta").public)
    wider = variant(federation, sites=[*federation.project.sites, zeta])
    refused(
        federation,
        "project.not_signed_here",
        federation.signed_request(project=wider.digest()),
        envelope=signed_by(wider, federation.identities),
    )


# -- one request, one run --------------------------------------------------------------------------


def test_one_request_is_one_run(federation: Federation) -> None:
    """Run twice under two ids it would spend twice; under its own it is the same run, and charged as one."""
    signed = federation.signed_request()
    for other in (f"{federation.run}-2", "ping-0000000000000000", "ask-1"):
        refused(federation, "protocol.run", signed, run=other)
    for _ in range(2):
        assert federation.admit("alpha").accepted  # control


def test_a_name_that_hides_what_runs_makes_no_other_id(tmp_path: Path) -> None:
    """The id is that of the whole request, so two documents of one name are two runs."""
    federation = Federation(tmp_path, sites=FOUR)
    other = PingDocument(length=6, rounds=2, seed=1).model_dump(mode="json")
    ids = {run_id(federation.request()), run_id(federation.request(document=other))}
    assert len(ids) == 2
    assert {run.rsplit("-", 1)[0] for run in ids} == {"ping"}
