"""Row 4. Attack: the coordinator and t sites collude.

Must hold: masks hold for two honest sites; noise of the honest ones alone meets ε; t = n-1 is refused before
start. Tested from the coordinator's seat and from a site's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.dp.noise import skellam
from plasmid.dp.skellam import skellam_epsilon
from plasmid.planner.attempts import attempts, sensitivity
from plasmid.protocol.messages import Manifest
from plasmid.recipes.query import PingDocument
from plasmid.recipes.schema import Recipe
from plasmid.secagg import shamir
from plasmid.secagg.keystream import Pad, commitment, self_key
from plasmid.secagg.ring import decode_sum, encode
from plasmid.secagg.site import threshold
from support.federation.attacks import (
    FIVE,
    Insider,
    as_csv,
    insider,
    looks_uniform,
    looks_unrelated,
    refusal,
    take_out,
)
from support.federation.in_memory import SITES, Federation
from support.tiny.tiny_task import tiny_recipe, tiny_table

LENGTH = 20_000
HONEST = ("alpha", "delta", "epsilon")
COLLUDERS = ("beta", "gamma")


@dataclass
class Attempt:
    """One attempt of five sites, c = 2, and what every site knew of it beforehand."""

    federation: Federation
    manifest: Manifest
    known: dict[str, Insider]
    words: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]
    opened: np.ndarray

    def bare(self, victim: str, colluders: tuple[str, ...], *, self_mask: bool = False) -> np.ndarray:
        """Return the victim's vector without the masks that *colluders* share with it."""
        digest = self.manifest.digest()
        pads = [self.known[site].pair_pad(victim, digest) for site in colluders]
        if self_mask:
            pads.append(self.known[victim].self_pad(digest))
        return take_out(self.words[victim], pads)

    def plain(self, site: str) -> np.ndarray:
        """Return the words of a site's vector before masks."""
        return encode(self.vectors[site], self.manifest.encoding())


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    federation = Federation(
        tmp_path_factory.mktemp("collusion"), document=PingDocument(length=LENGTH), sites=FIVE, c=2
    )
    federation.set_up()
    manifest = federation.manifest()
    known = {site: insider(gateway, federation.run, 0) for site, gateway in federation.gateways.items()}
    source = np.random.default_rng(1)
    vectors = {site: np.clip(source.normal(0.0, 0.2, LENGTH), -1, 1).astype(np.float32) for site in FIVE}
    answers = federation.answers(manifest, vectors)
    words = {site: federation.words(answer, manifest) for site, answer in answers.items()}
    opened = federation.open_sum(list(answers.values()), manifest)
    return Attempt(federation, manifest, known, words, vectors, opened)


# -- masks -----------------------------------------------------------------------------------------


@pytest.mark.promise("masked-is-random")
@pytest.mark.parametrize("victim", HONEST)
def test_with_c_colluders_a_vector_stays_noise_even_after_its_self_mask_is_open(
    attempt: Attempt, victim: str
) -> None:
    for self_mask in (False, True):
        bare = attempt.bare(victim, COLLUDERS, self_mask=self_mask)
        assert looks_uniform(bare)
        assert looks_unrelated(bare, attempt.vectors[victim])


def test_what_c_colluders_and_the_coordinator_learn_is_the_sum_of_the_honest(attempt: Attempt) -> None:
    left = attempt.opened - sum(attempt.plain(site) for site in COLLUDERS)
    assert np.array_equal(left, sum(attempt.plain(site) for site in HONEST))
    # a sum of two of the three honest ones is noise, with every self-mask open
    two = attempt.bare("alpha", COLLUDERS, self_mask=True) + attempt.bare("delta", COLLUDERS, self_mask=True)
    assert looks_uniform(two)


def test_c_colluders_hold_too_few_shares(attempt: Attempt) -> None:
    epoch: Any = attempt.federation.gateways["alpha"].run(attempt.federation.run).epoch
    assert (epoch.theta, len(COLLUDERS)) == (4, 2)
    for together, enough in ((COLLUDERS, False), ((*COLLUDERS, "delta"), False), (FIVE[1:], True)):
        weights = shamir.lagrange([FIVE.index(site) + 1 for site in together])
        for kind, committed in enumerate(
            (epoch.advert.self_commitments[:32], epoch.advert.key_commitments[:32])
        ):
            shares = [np.frombuffer(attempt.known[site].shares["alpha"][kind], np.uint8) for site in together]
            secret = shamir.combine(weights, np.stack(shares)).tobytes()
            assert (commitment(secret) == committed) == enough


@pytest.mark.parametrize("victim", HONEST)
def test_control_n_minus_1_colluders_read_the_one_left(attempt: Attempt, victim: str) -> None:
    """They hold theta shares of its self-mask and every pair seed: nothing was ever asked of the victim."""
    others = tuple(site for site in FIVE if site != victim)
    weights = shamir.lagrange([FIVE.index(site) + 1 for site in others])
    shares = [np.frombuffer(attempt.known[site].shares[victim][0], np.uint8) for site in others]
    secret = shamir.combine(weights, np.stack(shares)).tobytes()
    own = Pad(self_key(secret, attempt.manifest.digest()), subtract=True)
    bare = take_out(attempt.bare(victim, others), [own])
    assert np.array_equal(bare, attempt.plain(victim))
    # and without any key: they subtract their own parts from the sum
    left = attempt.opened - sum(attempt.plain(site) for site in others)
    assert np.array_equal(left, attempt.plain(victim))


@pytest.mark.promise("colluders-assumed")
@pytest.mark.parametrize(
    ("c", "accepted"), [(0, False), (1, True), (2, True), (3, True), (4, False), (5, False)]
)
def test_a_plan_with_n_minus_1_colluders_is_refused_before_anything_leaves(
    tmp_path: Path, c: int, accepted: bool
) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=4), sites=FIVE)
    federation.admit_all()
    for gateway in federation.gateways.values():
        if accepted:
            assert gateway.begin_epoch(federation.epoch(c=c)) is not None
        else:
            with refusal("protocol.colluders"):
                gateway.begin_epoch(federation.epoch(c=c))
            assert not gateway.home.runs.exists()


@pytest.mark.promise("masked-is-random")
@pytest.mark.parametrize(
    ("n", "c", "honest"), [(3, 1, 2), (4, 1, 2), (4, 2, 2), (5, 3, 2), (6, 1, 3), (50, 16, 18)]
)
def test_every_sum_holds_two_honest_inputs(n: int, c: int, honest: int) -> None:
    assert threshold(n, c) - c == honest


# -- from a site's seat ----------------------------------------------------------------------------


def test_one_of_three_sites_learns_the_sum_of_the_two_others_and_no_more(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=LENGTH))
    federation.set_up()
    manifest = federation.manifest()
    seat = insider(federation.gateways["beta"], federation.run, 0)
    source = np.random.default_rng(2)
    vectors = {site: source.uniform(-1, 1, LENGTH).astype(np.float32) for site in SITES}
    answers = federation.answers(manifest, vectors)
    opened = federation.open_sum(list(answers.values()), manifest)
    plain = {site: encode(vector, manifest.encoding()) for site, vector in vectors.items()}
    assert np.array_equal(opened - plain["beta"], plain["alpha"] + plain["gamma"])
    for victim in ("alpha", "gamma"):  # though the coordinator should give it every recorded byte
        bare = take_out(
            federation.words(answers[victim], manifest), [seat.pair_pad(victim, manifest.digest())]
        )
        assert looks_uniform(bare)
        assert looks_unrelated(bare, vectors[victim])


# -- noise -----------------------------------------------------------------------------------------


def output_recipe(base: BaseModel) -> Recipe:
    values = tiny_recipe(base).model_dump(mode="json")
    values["privacy"] |= {
        "unit": "record",
        "mechanism": "output",
        "epsilon": 8.0,
        "delta": 1e-5,
        "update_clip": 0.5,
    }
    return Recipe.model_validate(values)


@pytest.mark.promise("unit-is-private")
@pytest.mark.usefixtures("at_home")
def test_the_noise_of_the_honest_sites_alone_meets_epsilon(
    tmp_path: Path, tiny: dict[str, BaseModel]
) -> None:
    """c colluders know their own shares and subtract them; as few as m sites survive."""
    recipe = output_recipe(tiny["esm"])
    table = as_csv(tiny_table(12))
    federation = Federation(
        tmp_path,
        document=recipe,
        sites=FIVE,
        c=2,
        tables=dict.fromkeys(FIVE, table),
        public_size=1000,
        budgets={"default": {"unit": "record", "epsilon": 8.0, "delta": 1e-5}},
    )
    federation.set_up()
    manifest = federation.manifest()
    encoding = manifest.encoding()
    m, c = manifest.min_sites, 2
    assert m == 4
    drawn: dict[str, np.ndarray] = {}
    with pytest.MonkeyPatch.context() as patch:
        for site in FIVE[:m]:

            def recorded(length: int, variance: float, site: str = site) -> np.ndarray:
                drawn[site] = skellam(length, variance)
                return drawn[site]

            patch.setattr("plasmid.gateway.output.skellam", recorded)
            zeros = np.zeros(federation.gateways[site].run(federation.run).shape.schema.size, np.float32)
            federation.answers(manifest, {site: zeros})
    left = sum(drawn[site] for site in FIVE[: m - c])  # what the others drew is known to them
    planned = (m - c) * encoding.noise_variance
    # chi-square of that many values: five standard deviations are 5 sqrt(2 / d), kurtosis aside
    assert np.mean(np.square(left, dtype=np.float64)) == pytest.approx(
        planned, rel=6 * math.sqrt(2 / encoding.length)
    )
    figures = {
        "sensitivity": sensitivity(recipe, federation.gateways["alpha"].run(federation.run).shape),
        "length": encoding.length,
        "scale_log2": encoding.scale_log2,
        "releases": attempts(recipe),
        "rate": 1.0,
        "delta": 1e-5,
    }
    assert figures["sensitivity"] == 1.0  # twice update_clip: a record may turn the whole update round
    spent = skellam_epsilon(std=math.sqrt(planned) * encoding.step, **figures)
    assert 7.99 < spent <= 8.0
    # control: noise that counts on all m shares, two of them the colluders', would not meet it
    short = skellam_epsilon(std=math.sqrt(planned * (m - c) / m) * encoding.step, **figures)
    assert short > 11.0


@pytest.mark.usefixtures("at_home")
def test_each_share_is_in_the_words_that_leave(tmp_path: Path, tiny: dict[str, BaseModel]) -> None:
    """The opened sum of zeros has the variance of all shares that took part: no less is ever released."""
    recipe = output_recipe(tiny["esm"])
    table = as_csv(tiny_table(12))
    federation = Federation(
        tmp_path,
        document=recipe,
        sites=FIVE,
        tables=dict.fromkeys(FIVE, table),
        public_size=1000,
        budgets={"default": {"unit": "record", "epsilon": 8.0, "delta": 1e-5}},
    )
    federation.set_up()
    manifest = federation.manifest()
    answers = list(federation.answers(manifest).values())[: manifest.min_sites]
    total = decode_sum(federation.open_sum(answers, manifest), manifest.encoding(), len(answers))
    std = math.sqrt(len(answers) * manifest.noise_variance) * manifest.encoding().step
    assert float(total.std()) == pytest.approx(std, rel=6 / math.sqrt(2 * manifest.length))
