"""Row 17. Attack: restart differencing: {A,B,C} then {A,B} with the same update.

Must hold: refused, or new ε spent; a noise draw never serves two manifests.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.dp.noise import skellam
from plasmid.gateway.admission import Answer
from plasmid.recipes.query import PingDocument
from plasmid.secagg.ring import decode_sum, encode
from support.federation.attacks import FOUR, count_document, never, private, refusal
from support.federation.in_memory import Federation

THREE = ("alpha", "beta", "gamma")
VECTORS = {site: np.full(6, 2.0**-index, np.float32) for index, site in enumerate(FOUR)}


def begun(tmp_path: Path) -> Federation:
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=2), sites=FOUR)
    federation.set_up()
    return federation


def test_control_two_sums_over_different_survivors_give_the_difference_away(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    encoding = federation.manifest().encoding()
    words = {site: encode(vector, encoding) for site, vector in VECTORS.items()}
    of = {sites: np.sum([words[site] for site in sites], axis=0, dtype=np.uint32) for sites in (FOUR, THREE)}
    assert decode_sum(of[FOUR] - of[THREE], encoding, 1).tolist() == VECTORS["delta"].tolist()


# -- without a privacy unit ------------------------------------------------------------------------


def first_sum(federation: Federation) -> None:
    manifest = federation.manifest()
    answers = federation.answers(manifest, VECTORS)
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 4)
    assert total.tolist() == [1.875] * 6


def refused_everywhere(federation: Federation, **changes: object) -> None:
    for site in federation.manifest(**changes).invited:
        with refusal("protocol.consented"):
            federation.gateways[site].contribute(federation.manifest(**changes), never)


@pytest.mark.promise("one-sum")
def test_a_round_that_was_summed_is_not_summed_again(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    first_sum(federation)
    refused_everywhere(federation, slot=1, invited=list(THREE))
    refused_everywhere(federation, slot=1)
    federation.key_epoch(epoch=2)
    refused_everywhere(federation, slot=0)


def test_a_smaller_roster_changes_nothing(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    first_sum(federation)
    federation.key_epoch(epoch=2, roster=list(THREE))
    refused_everywhere(federation, slot=0)


@pytest.mark.promise("one-sum")
def test_a_restart_of_every_site_changes_nothing(tmp_path: Path) -> None:
    federation = begun(tmp_path)
    first_sum(federation)
    for site in FOUR:
        federation.restart(site)
    federation.admit_all()
    with refusal("protocol.epoch_used"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(epoch=1))
    federation.key_epoch(epoch=2, roster=list(THREE), begins=None)
    refused_everywhere(federation, slot=0)
    # nobody has verified the state of the next round, so there is none
    for site in THREE:
        with refusal("protocol.unverified"):
            federation.gateways[site].contribute(federation.manifest(2, slot=0), never)


def test_a_restart_of_one_site_and_the_next_round(tmp_path: Path) -> None:
    """Three have verified the state, and delta, who comes back, follows them; then all go on."""
    federation = begun(tmp_path)
    first_sum(federation)
    federation.restart("delta")
    assert federation.admit("delta").accepted
    federation.key_epoch(epoch=2)
    manifest = federation.manifest(2, slot=0)
    federation.open_sum(list(federation.answers(manifest, VECTORS).values()), manifest)


def test_an_agreement_counts_even_if_no_share_was_asked_for(tmp_path: Path) -> None:
    """The coordinator says that it lost everything: those who agreed do not begin again."""
    federation = begun(tmp_path)
    answers = federation.answers(federation.manifest(), VECTORS)
    federation.consents(list(answers.values()))
    for site in FOUR:
        federation.restart(site)
    federation.admit_all()
    federation.key_epoch(epoch=2)
    refused_everywhere(federation, slot=0)


def test_a_round_to_which_nobody_agreed_is_attempted_again(tmp_path: Path) -> None:
    """Nothing was opened, and nothing of the first attempt ever will be."""
    federation = begun(tmp_path)
    first = federation.manifest()
    lost = federation.answers(first, {site: VECTORS[site] for site in THREE})
    second = federation.manifest(slot=1)
    answers = federation.answers(second, {site: VECTORS[site] for site in ("alpha", "beta", "delta")})
    total = decode_sum(federation.open_sum(list(answers.values()), second), second.encoding(), 3)
    assert total.tolist() == [1.75] * 6
    said = [answer.contribution for answer in lost.values()]
    for site in ("alpha", "beta"):
        with refusal("protocol.slot_used"):
            federation.gateways[site].relay(federation.relay("contribution", said))
    # gamma has not begun the second attempt, and agrees: alone, with the one signature there will be
    alone: Any = federation.gateways["gamma"].relay(federation.relay("contribution", said))
    with refusal("protocol.consents"):
        federation.shares([alone])


def test_those_who_had_not_agreed_are_too_few_for_a_second_sum(tmp_path: Path) -> None:
    """theta sites agree to all four; delta, whose consent was not asked for, is one too few on its own."""
    federation = begun(tmp_path)
    manifest = federation.manifest()
    answers = federation.answers(manifest, VECTORS)
    said = [answer.contribution for answer in answers.values()]
    consents: Any = [
        federation.gateways[site].relay(federation.relay("contribution", said)) for site in THREE
    ]
    federation.shares(consents)
    second = federation.manifest(slot=1)
    again: dict[str, Answer] = federation.answers(second, {"delta": VECTORS["delta"]})
    for site in THREE:
        with refusal("protocol.consented"):
            federation.gateways[site].contribute(second, never)
    with refusal("policy.min_organisations"):
        federation.consents(list(again.values()), slot=1)


# -- under a privacy unit --------------------------------------------------------------------------


def attempts_charged(federation: Federation, site: str) -> list[list[int]]:
    return [
        entry["slot"] for entry in federation.gateways[site].ledger.entries() if entry["event"] == "attempt"
    ]


@pytest.mark.promise("charged-first")
def test_under_a_unit_every_attempt_is_charged_and_no_more_than_were_reserved(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    vector = np.array([0.5, 0.25, 1.0])
    for slot, survivors in enumerate((FOUR, THREE, ("alpha", "beta", "delta"))):
        manifest = federation.manifest(slot=slot)
        answers = federation.answers(manifest, dict.fromkeys(FOUR, vector))
        federation.open_sum([answers[site] for site in survivors], manifest)
    for site in FOUR:
        gateway = federation.gateways[site]
        assert attempts_charged(federation, site) == [[1, 0], [1, 1], [1, 2]]
        spent = gateway.ledger.summary()["default"]
        assert (float(spent.spent_epsilon), float(spent.reserved_epsilon)) == (1.0, 0.0)
    for site in FOUR:
        federation.restart(site)
    federation.admit_all()
    federation.key_epoch(epoch=2, slots=1, begins=None)
    for site in FOUR:
        with refusal("policy.attempts"):
            federation.gateways[site].contribute(federation.manifest(slot=0), never)


def test_a_noise_draw_serves_one_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = private(tmp_path)
    federation.set_up()
    drawn: list[np.ndarray] = []

    def recorded(length: int, variance: float) -> np.ndarray:
        drawn.append(skellam(length, variance))
        return drawn[-1]

    monkeypatch.setattr("plasmid.gateway.output.skellam", recorded)
    vector = np.array([0.5, 0.25, 1.0])
    totals = []
    for slot, survivors in enumerate((FOUR, THREE)):
        manifest = federation.manifest(slot=slot)
        answers = federation.answers(manifest, dict.fromkeys(FOUR, vector))
        for site in FOUR:  # asked again, a site sends what it has stored: no second draw
            assert federation.gateways[site].contribute(manifest, never) == answers[site]
        total = federation.open_sum([answers[site] for site in survivors], manifest)
        totals.append(decode_sum(total, manifest.encoding(), len(survivors)))
    assert len(drawn) == 8
    assert all(not np.array_equal(one, other) for one, other in combinations(drawn, 2))
    # what the difference of the two sums tells of delta is hidden by seven shares
    step = federation.manifest().encoding().step
    noise = (sum(drawn[:4]) - drawn[4] - drawn[5] - drawn[7]) * step
    assert totals[0] - totals[1] == pytest.approx(vector + noise, abs=4 * step)
    assert np.abs(noise).min() > 0


def test_the_plan_s_noise_is_for_all_attempts_that_may_be_charged(tmp_path: Path) -> None:
    """More spare attempts, more noise: each is one more release of the same rows."""
    variances = []
    for spare in (0, 2, 5):
        federation = private(tmp_path / str(spare), document=count_document(spare=spare))
        federation.set_up()
        manifest = federation.manifest()
        variances.append(manifest.noise_variance * manifest.encoding().step ** 2)
    assert variances[1] / variances[0] == pytest.approx(3, rel=0.03)
    assert variances[2] / variances[0] == pytest.approx(6, rel=0.06)
