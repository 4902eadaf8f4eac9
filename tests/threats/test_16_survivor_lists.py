"""Row 16. Attack: share withholding; late delivery; two survivor lists; asking for self-mask and pair seed of
the same site.

Must hold: nothing is revealed; refused; a late vector stays useless.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import StorageError
from plasmid.gateway.admission import Answer
from plasmid.protocol.messages import Manifest, Signed
from plasmid.recipes.query import PingDocument
from plasmid.secagg.ring import decode_sum, encode
from plasmid.secagg.statements import Shares
from support.federation.attacks import (
    FOUR,
    Insider,
    forged,
    insider,
    looks_uniform,
    looks_unrelated,
    refusal,
    take_out,
)
from support.federation.in_memory import Federation

LENGTH = 4096
THREE = ("alpha", "beta", "gamma")
"""theta = 3 of the four sites, c = 1."""


class Scene:
    """Four sites that have contributed to slot 0, and the gateways to attack."""

    def __init__(self, root: Path, *, contribute: Sequence[str] = FOUR) -> None:
        self.federation = Federation(root, document=PingDocument(length=LENGTH, rounds=2), sites=FOUR)
        self.federation.set_up()
        self.manifest: Manifest = self.federation.manifest()
        self.known: dict[str, Insider] = {
            site: insider(gateway, self.federation.run, 0)
            for site, gateway in self.federation.gateways.items()
        }
        source = np.random.default_rng(3)
        self.vectors = {site: source.uniform(-1, 1, LENGTH).astype(np.float32) for site in FOUR}
        self.answers: dict[str, Answer] = {}
        self.contribute(*contribute)

    def contribute(self, *sites: str) -> None:
        """Let sites answer the manifest."""
        self.answers |= self.federation.answers(self.manifest, {site: self.vectors[site] for site in sites})

    def consent(self, site: str, survivors: Iterable[str]) -> Signed:
        """Show *site* a survivor list; return its consent."""
        said = [self.answers[name].contribution for name in survivors]
        answer: Any = self.federation.gateways[site].relay(self.federation.relay("contribution", said))
        return Signed.model_validate(answer)

    def shares(self, site: str, consents: Sequence[Signed]) -> Shares:
        """Show *site* consents; return its answer."""
        answer: Any = self.federation.gateways[site].relay(self.federation.relay("consent", consents))
        return Shares.model_validate(answer.payload)

    def opened(self, survivors: Sequence[str], shares: Sequence[Shares]) -> np.ndarray:
        """Return the sum that the coordinator makes of *shares*."""
        pads = self.federation.coordinator_epoch.pads(
            0, self.manifest.digest(), invited=list(FOUR), survivors=survivors, shares=shares
        )
        total = self.federation.total([self.answers[site] for site in survivors], self.manifest)
        return decode_sum(take_out(total, pads), self.manifest.encoding(), len(survivors))

    def expected(self, survivors: Sequence[str]) -> np.ndarray:
        """Return the sum of what the sites meant."""
        plain = [encode(self.vectors[site], self.manifest.encoding()) for site in survivors]
        return decode_sum(
            np.sum(plain, axis=0, dtype=plain[0].dtype), self.manifest.encoding(), len(survivors)
        )


# -- withholding -----------------------------------------------------------------------------------


def test_fewer_answers_than_theta_open_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    consents = [scene.consent(site, FOUR) for site in FOUR]
    shares = [scene.shares(site, consents) for site in FOUR]
    for count in (0, 1, 2):
        for some in combinations(shares, count):
            with refusal("protocol.shares"):
                scene.opened(FOUR, some)
    total = scene.federation.total(list(scene.answers.values()), scene.manifest)
    assert looks_uniform(total)
    # control: any three answers open the sum, so one site that withholds stops nothing
    for some in combinations(shares, 3):
        assert np.array_equal(scene.opened(FOUR, some), scene.expected(FOUR))


@pytest.mark.promise("one-sum")
def test_no_share_leaves_before_theta_have_agreed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    consents = [scene.consent(site, FOUR) for site in THREE]
    for some in ([], consents[:1], consents[:2], [consents[0], consents[0], consents[1]]):
        with refusal("protocol.consents"):
            scene.shares("alpha", some)
    with refusal("protocol.consents"):  # it has agreed to nothing itself
        scene.shares("delta", consents)
    assert sorted(scene.shares("alpha", consents).self_shares) == list(FOUR)


# -- a late vector ---------------------------------------------------------------------------------


@pytest.mark.promise("one-sum", "masked-is-random")
def test_a_late_vector_stays_noise_though_all_its_pair_masks_are_open(tmp_path: Path) -> None:
    scene = Scene(tmp_path, contribute=THREE)
    consents = [scene.consent(site, THREE) for site in THREE]
    shares = [scene.shares(site, consents) for site in THREE]
    assert np.array_equal(scene.opened(THREE, shares), scene.expected(THREE))
    assert {tuple(said.key_shares) for said in shares} == {("delta",)}

    scene.contribute("delta")  # its vector is masked, and late
    words = scene.federation.words(scene.answers["delta"], scene.manifest)
    digest = scene.manifest.digest()
    bare = take_out(words, [scene.known[site].pair_pad("delta", digest) for site in THREE])
    assert looks_uniform(bare)
    assert looks_unrelated(bare, scene.vectors["delta"])
    # nobody opens its self-mask any more, and it agrees to nothing without itself
    for site in THREE:
        with refusal("protocol.survivors"):
            scene.consent(site, FOUR)
        with refusal("protocol.slot_used"):
            scene.shares(site, consents)
    with refusal("protocol.survivors"):
        scene.consent("delta", THREE)
    late = scene.consent("delta", FOUR)  # it would agree to all four: it is alone with that
    for some in ([late], [late, *consents], [late, *consents[:2]]):
        with refusal("protocol.consents"):
            scene.shares("delta", some)
    # control: with its self-mask as well, there is the vector
    plain = take_out(bare, [scene.known["delta"].self_pad(digest)])
    assert np.array_equal(plain, encode(scene.vectors["delta"], scene.manifest.encoding()))


# -- two survivor lists ----------------------------------------------------------------------------


def other_lists(survivors: Sequence[str]) -> list[tuple[str, ...]]:
    return [part for size in (3, 4) for part in combinations(FOUR, size) if part != tuple(survivors)]


@pytest.mark.parametrize("first", [FOUR, THREE])
def test_a_site_signs_one_survivor_list_a_slot(tmp_path: Path, first: tuple[str, ...]) -> None:
    scene = Scene(tmp_path)
    consent = scene.consent("alpha", first)
    assert scene.consent("alpha", first[::-1]) == consent  # the same list again is the same consent
    for other in other_lists(first):
        if "alpha" in other:
            with refusal("protocol.survivors"):
                scene.consent("alpha", other)
    assert len([line for line in scene.federation.log("alpha") if line["action"] == "consent"]) == 2


@pytest.mark.promise("one-sum")
@pytest.mark.parametrize("split", [part for size in (1, 2) for part in combinations(THREE, size)])
def test_two_lists_do_not_both_open_even_with_a_site_that_signs_both(
    tmp_path: Path, split: tuple[str, ...]
) -> None:
    """delta colludes and signs whatever it likes; the others are shown one of two lists each."""
    scene = Scene(tmp_path)
    left_out = next(site for site in THREE if site not in split)
    whole, part = FOUR, tuple(site for site in FOUR if site != left_out)
    lists: dict[tuple[str, ...], list[Signed]] = {whole: [], part: []}
    for site in THREE:
        shown = part if site in split else whole
        lists[shown].append(scene.consent(site, shown))
    for shown, consents in lists.items():
        template = consents[0]
        consents.append(
            forged(template, scene.federation.identities["delta"], site="delta").model_copy(
                update={"signer": "delta"}
            )
        )
        assert len({said.payload["survivors"] for said in consents}) == 1, shown
    answered: dict[tuple[str, ...], list[Shares]] = {whole: [], part: []}
    for site in THREE:
        shown = part if site in split else whole
        consents, others = lists[shown], lists[whole if shown == part else part]
        for bad in (others, [*consents, *others]):
            with refusal("protocol.consents"):
                scene.shares(site, bad)
        if len(consents) < 3:
            with refusal("protocol.consents"):
                scene.shares(site, consents)
        else:
            answered[shown].append(scene.shares(site, consents))
    # two honest sites and the colluder are theta; of the other list there are two signatures, and no share
    assert sorted(map(len, answered.values())) == [0, 2]


def test_nobody_ever_gives_both_shares_of_a_site(tmp_path: Path) -> None:
    """Whatever the coordinator asks for after an answer, with signatures of a colluder for any list."""
    scene = Scene(tmp_path)
    consents = {site: scene.consent(site, THREE) for site in THREE}
    given = {site: [scene.shares(site, list(consents.values()))] for site in THREE}
    for site in THREE:
        for other in other_lists(THREE):
            with refusal("protocol.survivors"):
                scene.consent(site, other)
        with refusal("protocol.slot_used"):
            scene.shares(site, list(consents.values()))
    for answers in given.values():
        for said in answers:
            assert not set(said.self_shares) & set(said.key_shares)
            assert (sorted(said.self_shares), list(said.key_shares)) == (list(THREE), ["delta"])
    # the shares are erased as they leave
    for site in THREE:
        epoch = scene.federation.gateways[site].run(scene.federation.run).epoch
        assert epoch is not None
        assert not epoch._held[:, :, 0].any()


def test_a_slot_that_was_not_masked_gives_no_share(tmp_path: Path) -> None:
    """delta never contributed: it has no manifest of its own to compare with."""
    scene = Scene(tmp_path, contribute=THREE)
    consents = [scene.consent(site, THREE) for site in THREE]
    with refusal("protocol.slot_used"):
        scene.consent("delta", THREE)
    with refusal("protocol.slot_used"):
        scene.shares("delta", consents)


def test_a_coordinator_cannot_consent_for_a_site(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    mine = scene.consent("alpha", FOUR)
    invented = [
        forged(mine, scene.federation.coordinator, site=site).model_copy(update={"signer": site})
        for site in ("beta", "gamma")
    ]
    with refusal("protocol.signature"):
        scene.shares("alpha", [mine, *invented])


def full_disk(path: Path, data: bytes) -> None:
    raise StorageError("storage.full", f"no space left to write {path}.")


@pytest.mark.promise("one-sum")
def test_an_agreement_that_could_not_be_recorded_opens_nothing(tmp_path: Path) -> None:
    """alpha's disk is full as it would mark the round: it has agreed in memory alone."""
    scene = Scene(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plasmid.gateway.replay.write_atomic", full_disk)
        with refusal("storage.full"):
            scene.consent("alpha", FOUR)
    others = [scene.consent(site, FOUR) for site in ("beta", "delta", "gamma")]
    with refusal("protocol.ready"):
        scene.shares("alpha", others)
