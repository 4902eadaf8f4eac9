"""How an attempt's vectors are written: one function of public figures, the same for a whole run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations import api
from plasmid.core.errors import PlasmidError, RecipeError
from plasmid.dp.accounting import dp_sgd_epsilon
from plasmid.dp.rotation import padded_length
from plasmid.dp.skellam import skellam_epsilon
from plasmid.planner.attempts import (
    AUDIT_LENGTH,
    AttemptPlan,
    attempt_plan,
    attempts,
    audit_plan,
    sampling_rate,
    sensitivity,
    smallest_set,
    step_noise,
)
from plasmid.protocol.messages import Planned
from plasmid.recipes.protection import AuditPlan, Limits, Privacy, Protection
from plasmid.recipes.query import PingDocument, QueryDocument, noised
from plasmid.recipes.schema import Federation, Training

SIZE = 1200
SHAPE = api.Shape(
    schema=AdapterSchema(tensors=(TensorSpec(name="w", shape=(SIZE,)),)), bound=0.5, norm=0.5, bits=32
)


class Trained:
    """A document as the plan reads it, without the rest of a recipe."""

    computation = "finetune"

    def __init__(self, *, rounds: int = 3, spare: int = 2, min_sites: int = 3, **privacy: Any) -> None:
        self.federation = Federation(rounds=rounds, spare_attempts=spare, min_sites=min_sites)
        self.privacy = Privacy(**privacy)
        self.training = Training(steps=4, batch=50, lora_lr=1e-3, head_lr=1e-3, covariate_lr=1e-3)
        self.rounds = rounds


OUTPUT: dict[str, Any] = {
    "unit": "record",
    "mechanism": "output",
    "epsilon": 8.0,
    "delta": 1e-5,
    "update_clip": 0.5,
}


def planned(sites: int, *, c: int = 1, rate: float = 1.0) -> Planned:
    return Planned(sites=sites, c=c, noise_rate=rate)


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


# -- the smallest set ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protect", "least", "sites", "c", "theta", "m"),
    [
        ("masked", 3, 3, 1, 3, 3),
        ("masked", 3, 4, 1, 3, 3),
        ("masked", 3, 6, 1, 4, 4),
        ("masked", 5, 6, 1, 4, 5),
        ("masked", 3, 10, 3, 7, 7),
        ("masked", 3, 50, 16, 34, 34),
        ("none", 3, 10, 3, 0, 3),
    ],
)
def test_the_smallest_set_is_theta_or_the_recipe_s(
    protect: str, least: int, sites: int, c: int, theta: int, m: int
) -> None:
    document = Trained(min_sites=least, protect=protect)
    assert smallest_set(document, sites=sites, c=c) == (theta, m)


def test_a_run_has_its_rounds_and_the_spare_attempts() -> None:
    assert attempts(Trained(rounds=20, spare=3)) == 23
    assert attempts(PingDocument(length=1, rounds=7)) == 9
    assert (
        attempts(QueryDocument(name="q", column="age", bounds=(0, 1), federation=Limits(spare_attempts=0)))
        == 1
    )


# -- without shared noise --------------------------------------------------------------------------


def test_without_noise_the_encoding_is_the_first_epoch_s_for_the_whole_run() -> None:
    document, first = Trained(), planned(10)
    plans = {sites: attempt_plan(document, SHAPE, sites=sites, c=1, planned=first) for sites in (10, 6, 4, 3)}
    assert len({plan.encoding for plan in plans.values()}) == 1
    assert {sites: (plan.theta, plan.min_sites) for sites, plan in plans.items()} == {
        10: (6, 6), 6: (4, 4), 4: (3, 3), 3: (3, 3)
    }  # fmt: skip
    plan = plans[10]
    assert (plan.noise_std, plan.encoding.noise_variance, plan.encoding.length) == (0.0, 0.0, SIZE)
    assert (plan.encoding.bits, plan.encoding.bound, plan.encoding.scale_log2) == (32, 0.5, 28)


@pytest.mark.parametrize("mechanism", ["dp-sgd", None])
def test_noise_that_sites_make_alone_is_not_in_the_encoding(mechanism: str | None) -> None:
    privacy: dict[str, Any] = {"unit": "record", "mechanism": mechanism, "epsilon": 8.0, "delta": 1e-5}
    document = Trained(**privacy if mechanism else {}, **({"record_clip": 1.0} if mechanism else {}))
    plan = attempt_plan(document, SHAPE, sites=4, c=1, planned=planned(4, rate=0.0))
    assert plan == attempt_plan(Trained(), SHAPE, sites=4, c=1, planned=planned(4, rate=0.0))


def test_a_roster_that_grew_beyond_the_ring_is_refused() -> None:
    with refusal("protocol.ring_overflow"):
        attempt_plan(Trained(), SHAPE, sites=64, c=1, planned=planned(3))


# -- shared noise ----------------------------------------------------------------------------------


def spent(document: Any, plan: AttemptPlan, *, honest_variance: float, rate: float = 1.0) -> float:
    """Return epsilon of a whole run in which noise of *honest_variance* squared steps is in every sum."""
    return skellam_epsilon(
        sensitivity=sensitivity(document, SHAPE),
        length=plan.encoding.length,
        scale_log2=plan.encoding.scale_log2,
        std=math.sqrt(honest_variance) * plan.encoding.step,
        releases=attempts(document),
        rate=rate,
        delta=document.privacy.delta,
    )


def test_later_epochs_change_one_site_s_share_and_nothing_else() -> None:
    document, first = Trained(**OUTPUT), planned(10, c=2)
    plans = {
        (sites, c): attempt_plan(document, SHAPE, sites=sites, c=c, planned=first)
        for sites, c in ((10, 2), (10, 3), (8, 2), (6, 1), (4, 2), (4, 1), (3, 1))
    }
    start = plans[10, 2]
    for (sites, c), plan in plans.items():
        assert replace(plan.encoding, noise_variance=0.0) == replace(start.encoding, noise_variance=0.0)
        assert plan.noise_std == start.noise_std
        assert plan.min_sites == max(3, (sites + c) // 2 + 1)
        # m - c shares give the noise of a whole sum, in every epoch
        together = (plan.min_sites - c) * plan.encoding.noise_variance
        assert together == pytest.approx((plan.noise_std / plan.encoding.step) ** 2, rel=1e-12)
        assert spent(document, plan, honest_variance=together) <= 8.0
    assert plans[4, 2].encoding.noise_variance > 2 * plans[10, 2].encoding.noise_variance


def test_the_noise_is_the_smallest_that_meets_epsilon_with_m_minus_c_shares() -> None:
    document = Trained(**OUTPUT)
    plan = attempt_plan(document, SHAPE, sites=6, c=1, planned=planned(6))
    assert (plan.min_sites, plan.encoding.bits) == (4, 32)
    assert 7.999 < spent(document, plan, honest_variance=3 * plan.encoding.noise_variance) <= 8.0
    # one share less, and the promise would be broken
    assert spent(document, plan, honest_variance=2 * plan.encoding.noise_variance) > 9.0


def test_a_larger_minimum_means_smaller_shares() -> None:
    few, many = (
        attempt_plan(Trained(min_sites=m, **OUTPUT), SHAPE, sites=6, c=1, planned=planned(6)) for m in (4, 6)
    )
    assert few.encoding.noise_variance / many.encoding.noise_variance == pytest.approx(5 / 3, rel=0.01)


@pytest.mark.parametrize(("spare", "rounds"), [(0, 3), (2, 3), (7, 3)])
def test_spare_attempts_are_in_the_noise(spare: int, rounds: int) -> None:
    document = Trained(rounds=rounds, spare=spare, **OUTPUT)
    plan = attempt_plan(document, SHAPE, sites=4, c=1, planned=planned(4))
    alone = attempt_plan(Trained(rounds=1, spare=0, **OUTPUT), SHAPE, sites=4, c=1, planned=planned(4))
    assert (plan.noise_std / alone.noise_std) ** 2 == pytest.approx(rounds + spare, rel=0.05)


def test_a_smaller_sampling_rate_takes_less_noise() -> None:
    privacy: dict[str, Any] = {
        "unit": "record", "mechanism": "dp-fedsgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.5
    }  # fmt: skip
    document = Trained(**privacy)
    whole, tenth = (
        attempt_plan(document, SHAPE, sites=4, c=1, planned=planned(4, rate=rate)).noise_std
        for rate in (1.0, 0.1)
    )
    assert tenth < whole / 2


def test_a_rotation_pads_the_vector_and_narrows_its_bound() -> None:
    document = Trained(**OUTPUT, rotation="hadamard")
    plan = attempt_plan(document, SHAPE, sites=4, c=1, planned=planned(4))
    assert plan.encoding.length == padded_length(SIZE) == 2048
    assert plan.encoding.bound == pytest.approx(0.5 * math.sqrt(2 * math.log(2 * 2048 / 1e-9) / 2048))
    assert plan.encoding.bound < 0.5 / 5


@pytest.mark.parametrize(
    ("privacy", "expected"),
    [
        (OUTPUT, 1.0),  # a record may turn the whole update into its opposite
        ({**OUTPUT, "unit": "site"}, 0.5),  # a site comes or goes
        ({**OUTPUT, "mechanism": "dp-fedsgd", "record_clip": 0.25}, 0.25),
    ],
)
def test_the_sensitivity_is_the_clip_s(privacy: dict[str, Any], expected: float) -> None:
    assert sensitivity(Trained(**privacy), SHAPE) == expected


def test_a_vector_without_a_norm_cannot_be_noised_as_a_whole() -> None:
    document = QueryDocument(
        name="ages",
        column="age",
        bounds=(0, 120),
        privacy=Protection(unit="record", mechanism="output", epsilon=1.0, delta=1e-6),
    )
    shape = api.load("mean").shape(document, None)
    with pytest.raises(RecipeError, match="bounded L2 norm; mean has none") as caught:
        attempt_plan(document, shape, sites=4, c=1, planned=planned(4))
    assert caught.value.code == "recipe.no_norm"
    assert caught.value.hint == "Use mechanism: dp-fedsgd, which clips every record."


def test_a_query_s_noise_is_for_its_longest_record() -> None:
    document = QueryDocument(
        name="ages", column="age", bounds=(0, 120), privacy=noised(1.0, 1e-6) or Protection()
    )
    shape = api.load("mean").shape(document, None)
    assert sensitivity(document, shape) == math.sqrt(3)
    assert attempt_plan(document, shape, sites=4, c=1, planned=planned(4)).encoding.length == 3


# -- what a site's own figures make of it ----------------------------------------------------------


@pytest.mark.parametrize(("size", "rate"), [(500, 0.1), (50, 1.0), (10, 1.0), (10**6, 5e-5)])
def test_the_sampling_rate_follows_from_the_declared_size(size: int, rate: float) -> None:
    sgd: dict[str, Any] = {**OUTPUT, "mechanism": "dp-sgd", "record_clip": 1.0}
    assert sampling_rate(Trained(**sgd), size) == rate
    assert sampling_rate(Trained(**OUTPUT), size) == 1.0  # every record is in every vector
    assert sampling_rate(PingDocument(length=1), size) == 1.0


def test_the_noise_of_dp_sgd_is_for_all_attempts() -> None:
    sgd: dict[str, Any] = {**OUTPUT, "mechanism": "dp-sgd", "record_clip": 1.0}
    noise = step_noise(Trained(rounds=1, spare=2, **sgd), 1.0)
    assert noise is not None
    assert 7.99 < dp_sgd_epsilon(rate=1.0, noise_multiplier=noise, steps=3 * 4, delta=1e-5) <= 8.0
    assert step_noise(Trained(**OUTPUT), 0.1) is None
    assert step_noise(Trained(), 0.1) is None


# -- the audit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [3, 4, 10, 64])
def test_the_audit_sums_whole_numbers_exactly(sites: int) -> None:
    document = Trained(audit=AuditPlan(canaries=1000, max_audited_epsilon=8.0))
    plan = audit_plan(document, sites=sites, c=1, planned=planned(sites))
    assert (plan.encoding.length, plan.encoding.bound) == (AUDIT_LENGTH, 1000.0) == (2, 1000.0)
    assert plan.encoding.scale_log2 >= 0  # a whole number is a whole number of steps
    assert (plan.noise_std, plan.encoding.noise_variance) == (0.0, 0.0)
    assert (plan.theta, plan.min_sites) == smallest_set(document, sites=sites, c=1)


def test_the_audit_has_no_noise_under_a_unit_either() -> None:
    """Guesses about canaries tell about the canaries' coins and the public state alone."""
    document = Trained(**OUTPUT, audit=AuditPlan(canaries=100))
    assert audit_plan(document, sites=4, c=1, planned=planned(4)).encoding.noise_variance == 0.0
