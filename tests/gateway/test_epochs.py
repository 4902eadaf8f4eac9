"""A site's part in key epochs and in opening sums: what it says to other sites, and what it checks first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import PolicyRefused, ProtocolError
from plasmid.gateway.members.heads import Heads
from plasmid.protocol.messages import Blobs, Bundles, Relay, Signed, open_signed, wire
from plasmid.recipes.query import PingDocument
from plasmid.secagg.statements import PROTOCOL, Advert, Consent, Ready, Recovery, Shares, survivors_digest
from support.federation.attacks import FOUR, forged, private, refusal
from support.federation.in_memory import SITES, Federation

VECTOR = np.array([0.5, 0.25, 1.0])


def begun(tmp_path: Path, **settings: Any) -> tuple[Federation, list[Signed]]:
    federation = Federation(tmp_path, **settings)
    federation.admit_all()
    return federation, federation.adverts()


# -- a whole epoch ---------------------------------------------------------------------------------


def test_each_step_says_what_the_next_one_needs(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    gateway, public = federation.gateways["alpha"], federation.identities["alpha"].public
    advert = open_signed(adverts[0], public)
    assert isinstance(advert, Advert)
    assert (advert.run, advert.epoch, advert.site, advert.document) == (
        federation.run,
        1,
        "alpha",
        federation.digest,
    )
    assert len(advert.key_commitments) == len(advert.self_commitments) == 4 * 32  # 2 rounds, 2 spare

    sent = gateway.relay(federation.relay("advert", adverts))
    assert isinstance(sent, Bundles)
    assert [open_signed(said, public).receiver for said in sent.statements] == ["beta", "gamma"]
    rest = [
        federation.gateways[site].relay(federation.relay("advert", adverts)) for site in ("beta", "gamma")
    ]
    to_alpha = [
        said for other in rest if isinstance(other, Bundles) for said in other.statements
        if said.payload["receiver"] == "alpha"
    ]  # fmt: skip

    blobs = gateway.relay(federation.relay("bundle", to_alpha))
    assert isinstance(blobs, Blobs)
    recovery = open_signed(blobs.statement, public)
    assert isinstance(recovery, Recovery)
    assert len(blobs.sealed) == 4
    assert "sealed" not in blobs.statement.payload  # the blobs are for the coordinator alone
    line = federation.log("alpha")[-1]
    assert (line["action"], line["run"], line["result"]) == ("epoch", federation.run, "ok")
    assert (line["epoch"], line["roster"], line["c"]) == (1, list(SITES), 1)


def test_ready_says_what_must_be_equal_and_the_sites_agree(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    statements = federation.ready(federation.recoveries(federation.bundles(adverts)))
    opened = [open_signed(said, federation.identities[said.signer].public) for said in statements]
    assert all(isinstance(said, Ready) for said in opened)
    assert len({(said.rho, said.blobs, said.n, said.c, said.theta) for said in opened}) == 1
    assert (opened[0].n, opened[0].c, opened[0].theta) == (3, 1, 3)
    federation.seal(statements)
    assert all(gateway.run(federation.run).epoch.sealed for gateway in federation.gateways.values())  # type: ignore[union-attr]


def test_every_statement_names_the_protocol(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    inbox = federation.bundles(adverts)
    blobs = federation.recoveries(inbox)
    statements = federation.ready(blobs)
    federation.seal(statements)
    consents = federation.consents(list(federation.answers(federation.manifest()).values()))
    said = [
        *adverts,
        *(bundle for sent in inbox.values() for bundle in sent),
        *(blob.statement for blob in blobs.values()),
        *statements,
        *consents,
        *federation.shares(consents),
    ]
    assert {one.payload["protocol"] for one in said} == {PROTOCOL} == {"plasmid-sa/2"}


# -- the roster ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"roster": ["beta", "delta", "gamma"]}, "the roster of RUN is not acceptable"),  # without itself
        ({"roster": ["gamma", "beta", "alpha"]}, "the roster of RUN is not acceptable"),
        ({"roster": ["alpha", "alpha", "beta", "gamma"]}, "the roster of RUN is not acceptable"),
        ({"roster": ["alpha", "beta"]}, "2 sites are fewer than the recipe's min_sites"),
        ({"slots": 0}, "the epoch of RUN has 0 slots"),
        ({"slots": -1}, "the epoch of RUN has -1 slots"),
        ({"slots": 6}, "the epoch of RUN has 6 slots"),  # 2 rounds, 2 spare attempts, an audit
    ],
)
def test_a_roster_that_the_document_does_not_allow_is_refused(
    tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    federation = Federation(tmp_path, sites=FOUR)
    federation.admit_all()
    with pytest.raises(ProtocolError, match=what.replace("RUN", federation.run)) as caught:
        federation.gateways["alpha"].begin_epoch(federation.epoch(**change))
    assert caught.value.code == "protocol.manifest"
    assert not federation.home("alpha").runs.exists()
    assert federation.gateways["alpha"].begin_epoch(federation.epoch(slots=5)) is not None


def test_an_epoch_has_at_most_256_slots_and_one_that_fails_changes_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=300))
    federation.set_up(slots=64)
    admitted = federation.gateways["alpha"].run(federation.run)
    before = admitted.epoch
    with pytest.raises(ProtocolError, match="300 slots asked for, 1 to 256 are possible") as caught:
        federation.gateways["alpha"].begin_epoch(federation.epoch(epoch=2, slots=300))
    assert caught.value.code == "protocol.slots"
    assert (admitted.number, admitted.epoch) == (1, before)


def test_a_later_epoch_may_have_another_roster(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR)
    federation.set_up()
    old = federation.gateways["alpha"].run(federation.run).epoch
    federation.key_epoch(epoch=2, roster=["alpha", "beta", "gamma"])
    admitted = federation.gateways["alpha"].run(federation.run)
    assert (admitted.number, admitted.roster) == (2, ("alpha", "beta", "gamma"))
    assert admitted.epoch is not old
    manifest = federation.manifest()
    federation.open_sum(list(federation.answers(manifest).values()), manifest)


@pytest.mark.parametrize(
    ("organisations", "strangers", "c", "code"),
    [
        ({}, (), 1, None),
        ({}, (), 2, None),
        ({}, (), 3, "protocol.colluders"),  # c >= n - 1
        ({}, (), 0, "protocol.colluders"),
        ({}, ("delta",), 1, "protocol.colluders"),  # unconfirmed: it may be anybody's
        ({}, ("delta",), 2, None),
        ({"beta": "X", "gamma": "X"}, (), 1, "protocol.colluders"),  # X holds two of the four
        ({"beta": "X", "gamma": "X"}, (), 2, None),
        ({"beta": "X", "gamma": "X", "delta": "X"}, (), 2, "protocol.colluders"),
        ({"beta": "alpha hospital"}, (), 1, None),  # a site of its own organisation
        ({"beta": "alpha hospital", "delta": "alpha hospital"}, (), 1, "policy.min_organisations"),
    ],
)
def test_the_plan_may_not_assume_fewer_colluders_than_the_site(
    tmp_path: Path, organisations: dict[str, str], strangers: tuple[str, ...], c: int, code: str | None
) -> None:
    federation = Federation(tmp_path, sites=FOUR, organisations=organisations, strangers=strangers)
    federation.admit_all()
    gateway = federation.gateways["alpha"]
    if code is None:
        assert gateway.begin_epoch(federation.epoch(c=c)) is not None
    else:
        with refusal(code):
            gateway.begin_epoch(federation.epoch(c=c))
        assert not federation.home("alpha").runs.exists()


def test_the_recipe_may_let_two_organisations_collude(tmp_path: Path) -> None:
    document = PingDocument.model_validate(
        {"length": 6, "federation": {"min_sites": 4, "colluding_organisations": 2}}
    )
    federation = Federation(tmp_path, document=document, sites=FOUR)
    federation.admit_all()
    with pytest.raises(ProtocolError) as caught:
        federation.gateways["alpha"].begin_epoch(federation.epoch(c=1))
    assert caught.value.code == "protocol.colluders"
    assert caught.value.message == "the plan assumes 1 colluding sites, this site assumes at least 2."
    assert federation.gateways["alpha"].begin_epoch(federation.epoch(c=2)) is not None


def test_the_noise_is_planned_for_this_site_s_rate_or_a_larger_one(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.admit_all()
    gateway = federation.gateways["alpha"]
    less = federation.planned.model_copy(update={"noise_rate": 0.5})
    with pytest.raises(ProtocolError) as caught:
        gateway.begin_epoch(federation.epoch(planned=less))
    assert caught.value.code == "protocol.manifest"
    assert caught.value.message == ("the noise is planned for a sampling rate of 0.5, this site's is 1.0.")
    plain = Federation(tmp_path / "plain")
    plain.admit_all()
    with pytest.raises(ProtocolError, match="a noise rate is planned where no noise is shared") as caught:
        plain.gateways["alpha"].begin_epoch(
            plain.epoch(planned=plain.planned.model_copy(update={"noise_rate": 0.5}))
        )
    assert caught.value.code == "protocol.manifest"


def test_a_plan_whose_noise_no_ring_holds_is_refused_before_it_begins(tmp_path: Path) -> None:
    """A plan for no honest site at all."""
    federation = private(tmp_path)
    federation.admit_all()
    planned = federation.planned.model_copy(update={"c": 64})
    with refusal("usage.privacy"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(planned=planned))
    assert not federation.home("alpha").runs.exists()


# -- statements of others --------------------------------------------------------------------------


def test_a_statement_under_another_site_s_name_is_refused(tmp_path: Path) -> None:
    """beta signs, correctly, an advert that says it is gamma's."""
    federation, adverts = begun(tmp_path)
    pretended = forged(adverts[2], federation.identities["beta"]).model_copy(update={"signer": "beta"})
    with pytest.raises(ProtocolError, match="a statement of beta names gamma") as caught:
        federation.gateways["alpha"].relay(federation.relay("advert", [*adverts[:2], pretended]))
    assert caught.value.code == "protocol.signature"


@pytest.mark.parametrize("kind", ["bundle", "recovery", "ready", "contribution", "consent"])
def test_a_statement_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    federation, adverts = begun(tmp_path)
    with refusal("protocol.signature"):
        federation.gateways["alpha"].relay(federation.relay(kind, adverts))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_the_adverts_are_those_of_the_roster(tmp_path: Path, missing: int) -> None:
    federation, adverts = begun(tmp_path)
    fewer = [advert for index, advert in enumerate(adverts) if index != missing]
    for statements in (fewer, [*fewer, fewer[0]], [*adverts, adverts[0]], []):
        with refusal("protocol.adverts"):
            federation.gateways["alpha"].relay(federation.relay("advert", statements))
    # nothing of this counts as the one set of adverts
    federation.seal(federation.ready(federation.recoveries(federation.bundles(adverts))))


def test_a_bundle_of_another_site_is_refused(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    inbox = federation.bundles(adverts)
    bundle, other = inbox["beta"]
    for bad in (
        forged(bundle, federation.coordinator),
        forged(bundle, federation.identities["gamma"]),
        bundle.model_copy(update={"payload": {**bundle.payload, "kem": other.payload["kem"]}}),
    ):
        with refusal("protocol.signature"):
            federation.gateways["beta"].relay(federation.relay("bundle", [bad, other]))
    with refusal("protocol.bundles"):
        federation.gateways["beta"].relay(federation.relay("bundle", inbox["gamma"]))


def test_recovery_and_ready_statements_that_the_coordinator_invents_are_refused(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    gateway = federation.gateways["alpha"]
    blobs = federation.recoveries(federation.bundles(adverts))
    said = [blob.statement for blob in blobs.values()]
    with refusal("protocol.signature"):
        gateway.relay(
            federation.relay("recovery", [said[0], forged(said[1], federation.coordinator), said[2]])
        )
    statements = federation.ready(blobs)
    invented = forged(statements[1], federation.coordinator)
    with refusal("protocol.signature"):
        gateway.relay(federation.relay("ready", [statements[0], invented, statements[2]]))
    with refusal("protocol.ready"):
        gateway.relay(federation.relay("ready", statements[:2]))
    with refusal("protocol.manifest"):
        gateway.contribute(federation.manifest(), lambda _: np.zeros(6, np.float32))


def test_statements_before_their_turn_or_without_an_epoch_are_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.admit_all()
    gateway = federation.gateways["alpha"]
    kinds = ("advert", "bundle", "recovery", "ready")
    for kind in (*kinds, "contribution", "consent"):
        with pytest.raises(ProtocolError, match=f"{federation.run} has no key epoch 1 here") as caught:
            gateway.relay(federation.relay(kind, []))
        assert caught.value.code == "protocol.ready"
    federation.adverts()
    for kind in kinds[1:]:
        with refusal("protocol.ready"):
            gateway.relay(federation.relay(kind, []))
    with refusal("protocol.ready"):
        gateway.relay(Relay(run=federation.run, epoch=2, kind="advert", statements=[]))
    with refusal("run.unknown"):
        gateway.relay(Relay(run="run-2", epoch=1, kind="advert", statements=[]))


def test_an_unconfirmed_site_s_statement_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR, strangers=("delta",), c=2)
    federation.admit_all()
    adverts = federation.adverts()
    with pytest.raises(ProtocolError, match="the site delta is not in peers") as caught:
        federation.gateways["alpha"].relay(federation.relay("advert", adverts))
    assert caught.value.code == "protocol.unknown_peer"


def test_a_peer_struck_off_during_the_set_up_stops_it(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    inbox = federation.bundles(adverts)
    peers = federation.home("beta").peers
    peers.write_text(json.dumps({"coordinator": federation.coordinator.public, "sites": []}))
    with refusal("protocol.unknown_peer"):
        federation.gateways["beta"].relay(federation.relay("bundle", inbox["beta"]))


# -- consent and shares ----------------------------------------------------------------------------


def contributed(federation: Federation, *sites: str) -> list[Signed]:
    manifest = federation.manifest()
    shape = federation.gateways["alpha"].run(federation.run).shape
    zeros = np.zeros(shape.schema.size, shape.dtype)
    answers = federation.answers(manifest, dict.fromkeys(sites or federation.sites, zeros))
    return [answer.contribution for answer in answers.values()]


def test_a_consent_and_its_mark_name_the_survivors(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR)
    federation.set_up()
    said = contributed(federation, "alpha", "beta", "gamma")
    signed: Any = federation.gateways["alpha"].relay(federation.relay("contribution", said))
    consent = open_signed(signed, federation.identities["alpha"].public)
    assert isinstance(consent, Consent)
    opened = [open_signed(one, federation.identities[one.signer].public) for one in said]
    assert consent.survivors == survivors_digest(opened)
    assert consent.manifest == federation.manifest().digest()
    mark = json.loads((federation.home("alpha").runs / f"{federation.run}.json").read_text())
    assert (mark["consented_round"], mark["consented_manifest"]) == (1, consent.manifest)
    line = federation.log("alpha")[-1]
    assert (line["action"], line["round"], line["slot"]) == ("consent", 1, 0)
    assert line["survivors"] == ["alpha", "beta", "gamma"]


def test_shares_are_of_survivors_self_masks_and_drop_outs_keys(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR)
    federation.set_up()
    said = contributed(federation, "alpha", "beta", "gamma")
    consents: list[Any] = [
        federation.gateways[one.signer].relay(federation.relay("contribution", said)) for one in said
    ]
    signed: Any = federation.gateways["beta"].relay(federation.relay("consent", consents))
    shares = open_signed(signed, federation.identities["beta"].public)
    assert isinstance(shares, Shares)
    assert (sorted(shares.self_shares), sorted(shares.key_shares)) == (["alpha", "beta", "gamma"], ["delta"])
    line = federation.log("beta")[-1]
    assert (line["action"], line["dropped"]) == ("shares", ["delta"])


def test_the_owner_s_minimum_counts_at_the_sum(tmp_path: Path) -> None:
    """Three of four is what the recipe wants; the owner wants four, and has said so since."""
    federation = Federation(tmp_path, sites=FOUR)
    federation.set_up()
    said = contributed(federation)
    federation.allow("alpha", [federation.digest], min_organisations=4)
    with refusal("policy.min_organisations"):
        federation.gateways["alpha"].relay(federation.relay("contribution", said[:3]))
    assert federation.gateways["alpha"].relay(federation.relay("contribution", said)) is not None


def test_too_few_organisations_are_told_with_what_is_accepted(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR, require={"min_organisations": 4})
    federation.set_up()
    said = contributed(federation)
    with pytest.raises(PolicyRefused) as caught:
        federation.gateways["alpha"].relay(federation.relay("contribution", said[:3]))
    assert caught.value.code == "policy.min_organisations"
    assert caught.value.message == (
        "min_organisations: the sum would be over 3 confirmed organisations, the policy accepts 4 or more."
    )


def test_a_mark_that_cannot_be_written_ends_the_site_s_part_in_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, sites=FOUR)
    federation.set_up()
    said = contributed(federation)
    gateway = federation.gateways["alpha"]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gateway._epochs._marks, "consent", full)
        with pytest.raises(OSError, match="No space"):
            gateway.relay(federation.relay("contribution", said))
    assert gateway.run(federation.run).epoch is None
    others: list[Any] = [
        federation.gateways[site].relay(federation.relay("contribution", said)) for site in FOUR[1:]
    ]
    with refusal("protocol.ready"):
        gateway.relay(federation.relay("consent", others))
    with refusal("protocol.manifest"):
        gateway.contribute(federation.manifest(slot=1, rho=None), lambda _: np.zeros(6, np.float32))
    federation.shares(others)  # the three that are left are theta


# -- what a site is reminded of --------------------------------------------------------------------


def test_contributions_are_kept_at_the_consent_and_told_at_the_next_epoch(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    heads = Heads(federation.home("alpha").heads)
    said = contributed(federation, "alpha", "beta", "gamma")
    assert heads.all() == {}  # nothing yet, though the coordinator could have shown it
    federation.gateways["alpha"].relay(federation.relay("contribution", said))
    kept = {signed.signer: wire(signed).decode() for signed in said[1:]}
    assert heads.all() == kept
    inbox = federation.bundles(federation.adverts(epoch=2, roster=["alpha", "beta", "delta"]))
    told = {(one.signer, to): one.payload["heard"] for to, sent in inbox.items() for one in sent}
    assert told.pop(("alpha", "beta")) == [kept["beta"]]  # to its author alone
    assert set(map(tuple, told.values())) == {()}
    federation.seal(federation.ready(federation.recoveries(inbox)))


def test_consents_are_kept_with_the_shares_and_told_in_the_same_run(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    manifest = federation.manifest()
    consents = federation.consents(list(federation.answers(manifest, dict.fromkeys(FOUR, VECTOR)).values()))
    federation.shares(consents)
    kept = {signed.signer: wire(signed).decode() for signed in consents}
    inbox = federation.bundles(federation.adverts(epoch=2))
    for to, sent in inbox.items():
        assert [one.payload["heard"][1:] for one in sent] == [[kept[to]]] * 3
    federation.new_run("run-2")
    federation.admit_all()
    inbox = federation.bundles(federation.adverts())
    assert {len(one.payload["heard"]) for sent in inbox.values() for one in sent} == {1}  # the charge alone


def test_nobody_is_reminded_of_what_a_former_key_signed(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    federation.gateways["alpha"].relay(federation.relay("contribution", contributed(federation)))
    heads = Heads(federation.home("alpha").heads)
    assert heads.newest("beta", federation.identities["beta"].public)
    assert heads.newest("beta", federation.identities["gamma"].public) == ""
