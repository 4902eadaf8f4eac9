"""DP-SGD's epsilon is dp-accounting's, of the whole plan."""

from __future__ import annotations

import math
import warnings

import dp_accounting
import pytest
from dp_accounting import pld

from plasmid.core.errors import UsageError
from plasmid.dp import accounting
from plasmid.dp.accountant import check_plan
from plasmid.dp.accounting import MOST_VALUES, charged, dp_sgd_epsilon, dp_sgd_noise, most_epsilon
from plasmid.dp.lattice import DISTANCE

PLANS = [
    # rate, multiplier, steps, delta, epsilon
    (0.01, 1.0, 1000, 1e-5, 1.8282),
    (0.05, 1.5, 300, 1e-5, 2.8901),
    (0.5, 5.0, 200, 1e-5, 6.7012),
    (1.0, 5.0, 20, 1e-5, 3.8486),
]


def directly(rate: float, multiplier: float, steps: int, delta: float) -> float:
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    return float(accountant.get_epsilon(delta * (1 - 2.0**-16)))  # the rest of delta is the samplers'


@pytest.mark.parametrize(("rate", "multiplier", "steps", "delta", "epsilon"), PLANS)
def test_epsilon_is_dp_accountings_and_near_opacus_prv(
    rate: float, multiplier: float, steps: int, delta: float, epsilon: float
) -> None:
    found = dp_sgd_epsilon(rate=rate, noise_multiplier=multiplier, steps=steps, delta=delta)
    assert found == directly(rate, multiplier, steps, delta)
    assert found == pytest.approx(epsilon, abs=2e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus' own, on import and of log(0) where the rate is 1
        from opacus.accountants import PRVAccountant

        peer = PRVAccountant()
        peer.history = [(multiplier, rate, steps)]
        assert found == pytest.approx(peer.get_epsilon(delta), abs=0.02)


def test_an_unsampled_release_is_the_gaussian_mechanism() -> None:
    found = dp_sgd_epsilon(rate=1.0, noise_multiplier=5.0, steps=20, delta=1e-5)
    # 20 releases at 5 are one at 5 / sqrt(20), whose epsilon has a closed form (Balle and Wang 2018)
    exact = dp_accounting.get_epsilon_gaussian(5.0 / math.sqrt(20), 1e-5)
    assert exact <= found <= exact + 1e-3


def test_the_whole_plan_is_not_the_sum_and_not_the_last_round() -> None:
    """The trap of Flower's Opacus example, whose accountant starts anew each round.

    32 of 4,000 images in a batch, noise multiplier 1, one pass a round: it prints 0.62 (PRV, whose margin is
    0.01) in each of 100 rounds, and 5.43 is spent.
    """

    def spent(rounds: int) -> float:
        return dp_sgd_epsilon(rate=0.008, noise_multiplier=1.0, steps=125 * rounds, delta=1e-5)

    one, whole = spent(1), spent(100)
    assert one == pytest.approx(0.614, abs=0.002)
    assert whole == pytest.approx(5.42, abs=0.01)
    assert whole < 100 * one / 10  # nor is the sum the truth
    assert spent(102) > whole  # spare attempts cost


def test_the_gaussian_dp_approximation_would_say_less() -> None:
    # mu = q sqrt(T (e^(1/sigma^2) - 1)), the central limit that Opacus' GDPAccountant uses
    rate, multiplier, steps, delta = 0.01, 0.6, 300, 1e-5
    mu = rate * math.sqrt(steps * math.expm1(1 / multiplier**2))
    approximate = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    found = dp_sgd_epsilon(rate=rate, noise_multiplier=multiplier, steps=steps, delta=delta)
    assert found > 1.2 * approximate


@pytest.mark.parametrize(
    ("rate", "steps", "epsilon", "delta", "multiplier"),
    [(0.1, 100, 2.0, 1e-5, 2.2478), (1.0, 20, 4.0, 1e-5, 4.8352), (0.5, 200, 0.5, 1e-5, 49.7851)],
)
def test_the_noise_is_the_smallest_that_keeps_epsilon(
    rate: float, steps: int, epsilon: float, delta: float, multiplier: float
) -> None:
    found = dp_sgd_noise(rate=rate, steps=steps, epsilon=epsilon, delta=delta)
    assert found == multiplier
    plan = {"rate": rate, "steps": steps, "delta": delta}
    assert dp_sgd_epsilon(noise_multiplier=found, **plan) <= epsilon
    assert dp_sgd_epsilon(noise_multiplier=round(found - 1e-4, 4), **plan) > epsilon


def test_the_search_is_cached() -> None:
    plan = {"rate": 1.0, "steps": 20, "epsilon": 4.0, "delta": 1e-5}
    dp_sgd_noise(**plan)
    before = dp_sgd_noise.cache_info().hits
    dp_sgd_noise(**plan)
    assert dp_sgd_noise.cache_info().hits == before + 1


def test_an_epsilon_that_needs_next_to_no_noise_gets_the_least() -> None:
    assert dp_sgd_noise(rate=1e-4, steps=1, epsilon=50.0, delta=1e-2) == 0.1


def test_an_epsilon_beyond_what_the_samplers_keep_gets_the_noise_that_they_keep() -> None:
    most = most_epsilon(1e-5, 20 * MOST_VALUES)
    assert most == pytest.approx(48.0, abs=1)
    found = dp_sgd_noise(rate=1.0, steps=20, epsilon=500.0, delta=1e-5)
    assert found == dp_sgd_noise(rate=1.0, steps=20, epsilon=most, delta=1e-5)
    assert dp_sgd_epsilon(rate=1.0, noise_multiplier=found, steps=20, delta=1e-5) <= most


def test_an_epsilon_out_of_reach_is_refused() -> None:
    with pytest.raises(UsageError, match="no noise multiplier up to 10,000 gives epsilon 1e-05") as caught:
        dp_sgd_noise(rate=1.0, steps=10_000, epsilon=1e-5, delta=1e-9)
    assert caught.value.code == "usage.privacy"


def test_all_problems_are_told_at_once() -> None:
    assert check_plan(rate=0.5, releases=3, epsilon=1.0, delta=1e-5, size=1000) == []
    assert check_plan(rate=0.0, releases=0, epsilon=0.0, delta=0.01, size=100) == [
        "the sampling rate must lie in (0, 1], not 0",
        "the number of releases must be at least 1, not 0",
        "epsilon must be a number above 0, not 0",
        "delta must be below 1/100 = 0.01 (one unit of 100), not 0.01",
    ]
    assert check_plan(size=0, delta=1.0, epsilon=math.nan) == [
        "epsilon must be a number above 0, not nan",
        "the number of units must be at least 1, not 0",
        "delta must lie in (0, 1), not 1",
    ]
    with pytest.raises(UsageError, match="the noise multiplier must be above 0, not 0") as caught:
        dp_sgd_epsilon(rate=2.0, noise_multiplier=0.0, steps=1, delta=1e-5)
    assert "sampling rate must lie in (0, 1], not 2" in caught.value.message


def test_the_samplers_distance_is_charged_to_delta() -> None:
    """Without it, a run of so many values would be accounted as if its noise were exact."""
    share = 2.0**-16 * 1e-5
    for values in (1, 10**6, 2**40):
        most = most_epsilon(1e-5, values)
        assert (1 + math.exp(most)) * values * DISTANCE == pytest.approx(share)
        assert charged(most * 0.999, 1e-5, values) == most * 0.999
        assert charged(most * 1.001, 1e-5, values) == math.inf
    assert most_epsilon(1e-5, 2**130) == 0
    assert 40 < most_epsilon(1e-5, 2**30 * 1000) < 46
    with pytest.MonkeyPatch.context() as patch:  # the sampler of before: right within a relative 1e-4
        patch.setattr(accounting, "DISTANCE", 5e-5)
        assert charged(0.01, 1e-5, 1) == math.inf
