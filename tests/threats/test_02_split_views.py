"""Row 2. Attack: a different state, recipe or participant list is shown to different sites.

Must hold: the sum is noise *and* the signed manifest digests disagree, the round aborts.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.gateway.admission import Answer
from plasmid.protocol.body import pack
from plasmid.protocol.messages import Manifest
from plasmid.recipes.query import PingDocument
from plasmid.secagg.ring import decode_sum
from support.federation.attacks import FOUR, insider, looks_uniform, never, refusal, take_out
from support.federation.in_memory import Federation, document_of

LENGTH = 4096
LONG = PingDocument(length=LENGTH, rounds=2)
VECTOR = np.full(LENGTH, 0.25, np.float32)


def begun(tmp_path: Path) -> Federation:
    federation = Federation(tmp_path, document=LONG, sites=FOUR)
    federation.set_up()
    return federation


def opened_with_every_self_mask(
    federation: Federation, shown: dict[str, Manifest]
) -> tuple[np.ndarray, dict[str, Answer]]:
    """Contribute for what each site is shown; return the sum without any self-mask, which is what theta
    answers would take out at most, and the answers."""
    known = {site: insider(federation.gateways[site], federation.run, slot=0) for site in shown}
    answers = {
        site: federation.gateways[site].contribute(manifest, lambda _: VECTOR)
        for site, manifest in shown.items()
    }
    total = federation.total(list(answers.values()), next(iter(shown.values())))
    pads = [known[site].self_pad(manifest.digest()) for site, manifest in shown.items()]
    return take_out(total, pads), answers


def test_control_one_manifest_for_all_opens_to_the_sum(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    manifest = federation.manifest()
    total, answers = opened_with_every_self_mask(federation, dict.fromkeys(FOUR, manifest))
    assert decode_sum(total, manifest.encoding(), 4).tolist() == [1.0] * LENGTH
    assert federation.open_sum(list(answers.values()), manifest).tolist() == total.tolist()


@pytest.mark.promise("split-views")
@pytest.mark.parametrize("other", [("gamma",), ("beta", "gamma")])
def test_two_manifests_of_a_round_make_noise_that_no_site_lets_open(
    tmp_path: Path, other: tuple[str, ...]
) -> None:
    federation = begun(tmp_path)
    change = {"invited": ["alpha", "beta", "gamma"]}
    shown = {site: federation.manifest(**(change if site in other else {})) for site in FOUR}
    total, answers = opened_with_every_self_mask(federation, shown)
    # the sum is noise, tail and all
    assert looks_uniform(total)
    with refusal("protocol.garbage_sum"):
        decode_sum(total, shown["alpha"].encoding(), 4)
    # the signed digests disagree
    said = {site: answer.contribution.payload["manifest"] for site, answer in answers.items()}
    assert {site for site in FOUR if said[site] != said["alpha"]} == set(other)
    # and nobody consents: not to all, and not to a part that is large enough and holds both views
    mixed = [part for size in (3, 4) for part in combinations(FOUR, size) if "gamma" in part]
    for site in FOUR:
        for part in mixed:
            survivors = [answers[name].contribution for name in part]
            with refusal("protocol.survivors"):
                federation.gateways[site].relay(federation.relay("contribution", survivors))
        with refusal("protocol.consents"):
            federation.gateways[site].relay(federation.relay("consent", []))


def test_another_state_for_one_site_is_none_that_it_computes_at(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    state = pack("state", np.full(LENGTH, 0.5, np.float32))
    with refusal("protocol.step"):
        federation.gateways["gamma"].contribute(federation.manifest(state=federation.publish(state)), never)


def test_those_who_were_shown_the_same_may_still_be_enough(tmp_path: Path) -> None:
    """The one who was shown something else has dropped out: theta = 3 of 4 agree, and the sum is theirs."""
    federation = begun(tmp_path)
    manifest = federation.manifest()
    shown = dict.fromkeys(FOUR, manifest) | {"delta": federation.manifest(invited=["alpha", "beta", "delta"])}
    _, answers = opened_with_every_self_mask(federation, shown)
    del answers["delta"]
    total = federation.open_sum(list(answers.values()), manifest)
    assert decode_sum(total, manifest.encoding(), 3).tolist() == [0.75] * LENGTH


@pytest.mark.promise("split-views")
def test_another_recipe_for_one_site_is_no_common_run_and_no_common_epoch(tmp_path: Path) -> None:
    """gamma allows both recipes, and the requester has asked for both: each request is a run of its own."""
    federation = Federation(tmp_path, document=LONG, sites=FOUR)
    other, digest = document_of(PingDocument(length=LENGTH, rounds=2, seed=1))
    federation.allow("gamma", [federation.digest, digest])
    gateway = federation.gateways["gamma"]
    for site in ("alpha", "beta", "delta"):
        assert federation.admit(site).accepted
    request = federation.admitting(document=other, digest=digest)
    assert gateway.answer(request.model_copy(update={"run": federation.run})).code == "protocol.run"
    assert gateway.answer(request).accepted  # control
    # were it held under the same id all the same, the adverts would not belong together
    gateway._runs[federation.run] = replace(gateway.run(request.run), run=federation.run)
    adverts = federation.adverts()
    assert {advert.payload["document"] for advert in adverts} == {federation.digest, digest}
    for site in FOUR:
        with refusal("protocol.adverts"):
            federation.gateways[site].relay(federation.relay("advert", adverts))


def test_a_manifest_of_another_recipe_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    _, digest = document_of(PingDocument(length=LENGTH, rounds=2, seed=1))
    for site in FOUR:
        with refusal("protocol.manifest"):
            federation.gateways[site].contribute(federation.manifest(document=digest), never)


@pytest.mark.promise("split-views")
def test_two_rosters_are_no_common_epoch(tmp_path: Path) -> None:
    """alpha, beta and gamma are told of three sites, delta of four."""
    federation = Federation(tmp_path, document=LONG, sites=FOUR)
    federation.admit_all()
    three = ["alpha", "beta", "gamma"]
    adverts = federation.adverts(roster=three)
    own = federation.gateways["delta"].begin_epoch(federation.epoch())
    assert own is not None
    with refusal("protocol.adverts"):
        federation.gateways["alpha"].relay(federation.relay("advert", [*adverts, own]))
    inbox = federation.bundles(adverts)  # among the three
    sent: Any = federation.gateways["delta"].relay(federation.relay("advert", [*adverts, own]))
    to_alpha = [said for said in sent.statements if said.payload["receiver"] == "alpha"]
    with refusal("protocol.bundles"):
        federation.gateways["alpha"].relay(federation.relay("bundle", [*inbox["alpha"], *to_alpha]))
    with refusal("protocol.bundles"):
        federation.gateways["delta"].relay(federation.relay("bundle", []))


def test_two_sets_of_adverts_are_no_common_epoch(tmp_path: Path) -> None:
    """delta, which colludes, makes two adverts; the others are shown one each. Their rho disagree."""
    federation = Federation(tmp_path, document=LONG, sites=FOUR)
    federation.admit_all()
    adverts = federation.adverts()
    federation.restart("delta")
    (federation.home("delta").runs / f"{federation.run}.json").unlink()
    assert federation.admit("delta").accepted
    second = federation.gateways["delta"].begin_epoch(federation.epoch())
    assert second is not None
    shown = {"alpha": adverts, "beta": [*adverts[:2], second, adverts[3]]}
    bundles: dict[str, Any] = {
        site: federation.gateways[site].relay(federation.relay("advert", statements))
        for site, statements in shown.items()
    }
    rho = {site: sent.statements[0].payload["rho"] for site, sent in bundles.items()}
    assert rho["alpha"] != rho["beta"]
    to_beta = [said for said in bundles["alpha"].statements if said.payload["receiver"] == "beta"]
    for site in ("gamma", "delta"):
        sent: Any = federation.gateways[site].relay(federation.relay("advert", shown["beta"]))
        to_beta += [said for said in sent.statements if said.payload["receiver"] == "beta"]
    with refusal("protocol.bundles"):
        federation.gateways["beta"].relay(federation.relay("bundle", to_beta))
