"""Shared Skellam noise: the bound holds for the exact mechanism, and only m - c shares are ever counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, pld, rdp

from plasmid.core.errors import PlasmidError
from plasmid.dp.noise import skellam
from plasmid.dp.skellam import ORDERS, amplified, plan_shared_noise, skellam_epsilon, skellam_rdp
from plasmid.secagg.ring import add_noise, decode_sum, encode

PLAN = {
    "length": 5000,
    "bound": 4.0,
    "sites": 5,
    "honest": 3,
    "sensitivity": 1.0,
    "releases": 22,
    "rate": 1.0,
    "epsilon": 8.0,
    "delta": 1e-5,
}


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


# -- the exact mechanism in one dimension ----------------------------------------------------------


def pmf(variance: float, shift: int) -> np.ndarray:
    """Return the exact probabilities of shift + Skellam(variance), normalised against underflow."""
    from scipy.special import ive

    reach = math.ceil(36 * math.sqrt(variance)) + 60
    return np.asarray(ive(np.abs(np.arange(-reach, reach + 1) - shift), variance))


def exact_rdp(p: np.ndarray, q: np.ndarray, order: int) -> float:
    kept = (p > 0) & (q > 0)
    logs = order * np.log(p[kept]) + (1 - order) * np.log(q[kept])
    return float((logs.max() + np.log(np.exp(logs - logs.max()).sum())) / (order - 1))


def exact_delta(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


@pytest.mark.parametrize(("variance", "shift"), [(30.0, 3), (400.0, 10), (400.0, 30), (2500.0, 50)])
def test_the_exact_divergence_never_exceeds_the_bound(variance: float, shift: int) -> None:
    p, q = pmf(variance, shift), pmf(variance, 0)
    orders = np.array([2, 3, 4, 8, 16, 32])
    bounds = skellam_rdp(orders, float(shift), float(shift), variance)
    for order, bound in zip(orders, bounds, strict=True):
        exact = exact_rdp(p, q, int(order))
        assert exact <= bound * (1 + 1e-9)
        assert order > 4 or exact > 0.97 * order * shift**2 / (2 * variance)  # and the pmf is no accident
    gaussian = orders * shift**2 / (2 * variance)
    assert (bounds > gaussian).all()


@pytest.mark.parametrize(("variance", "shift"), [(30.0, 3), (400.0, 10), (2500.0, 50)])
@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_the_exact_delta_never_exceeds_the_one_reported(variance: float, shift: int, rate: float) -> None:
    with_unit = rate * pmf(variance, shift) + (1 - rate) * pmf(variance, 0)
    without = pmf(variance, 0)
    bound = amplified(lambda order: skellam_rdp(order, float(shift), float(shift), variance), rate)
    for delta in (1e-3, 1e-5, 1e-7):
        epsilon = rdp.compute_epsilon(ORDERS.tolist(), bound.tolist(), delta)[0]
        assert 0 < exact_delta(with_unit, without, epsilon) <= delta
        assert exact_delta(without, with_unit, epsilon) <= delta
        assert exact_delta(with_unit, without, epsilon / 3) > delta  # it says something


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
@pytest.mark.parametrize(("variance", "shift"), [(30.0, 3), (400.0, 30)])
def test_the_amplified_bound_holds_in_both_directions(rate: float, variance: float, shift: int) -> None:
    p, q = pmf(variance, shift), pmf(variance, 0)
    mixture = (1 - rate) * q + rate * p
    largest = ORDERS[-1] + 1
    exact = np.zeros(largest)
    exact[2:] = [exact_rdp(p, q, order) if order <= 24 else 1e6 for order in range(2, largest)]
    bound = amplified(lambda order: exact[order], rate)
    for order, limit in zip(ORDERS[:12].tolist(), bound, strict=False):
        assert exact_rdp(mixture, q, order) == pytest.approx(limit, rel=1e-6)  # tight
        assert exact_rdp(q, mixture, order) <= limit * (1 + 1e-9)


def test_the_step_of_the_proof_that_needs_the_involution() -> None:
    """h(r) >= 0: see :func:`amplified`. Where it fails, so does the second direction."""
    r = np.geomspace(1e-8, 1e8, 4001)
    for alpha in (1.0, 1.5, 2.0, 3.0, 10.0):
        for rate in (0.01, 0.2, 0.7, 1.0):
            a, b = 1 - rate + rate * r, 1 - rate + rate / r
            gain, loss = a**alpha - a ** (1 - alpha), r * (b ** (1 - alpha) - b**alpha)
            assert (gain >= loss - 1e-9 * np.maximum(np.abs(gain), np.abs(loss))).all()


def test_many_releases_composed_exactly_cost_less_than_reported() -> None:
    variance, shift, releases, delta = 2500.0, 25, 30, 1e-5
    p, q = pmf(variance, shift), pmf(variance, 0)
    support = range(p.size)
    one = pld.privacy_loss_distribution.from_two_probability_mass_functions(
        dict(zip(support, np.log(q).tolist(), strict=True)),
        dict(zip(support, np.log(p).tolist(), strict=True)),
        pessimistic_estimate=False,
        value_discretization_interval=1e-3,
    )
    exact = one.self_compose(releases).get_epsilon_for_delta(delta)
    bound = releases * skellam_rdp(ORDERS, float(shift), float(shift), variance)
    reported = rdp.compute_epsilon(ORDERS.tolist(), bound.tolist(), delta)[0]
    assert exact < reported < 1.15 * exact


# -- where it overlaps with dp-accounting ----------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.3, 0.01])
def test_fine_steps_are_dp_accountings_gaussian(rate: float) -> None:
    """With steps fine enough Skellam noise is a Gaussian, and amplification at whole orders is Mironov's."""
    std, releases, delta = 2.0, 50, 1e-5
    accountant = rdp.RdpAccountant(ORDERS.tolist(), NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(std)), releases)
    found = skellam_epsilon(
        sensitivity=1.0, length=1, scale_log2=40, std=std, releases=releases, rate=rate, delta=delta
    )
    assert found == pytest.approx(accountant.get_epsilon(delta * (1 - 2.0**-16)), rel=1e-6)


def test_a_gaussian_pld_of_the_same_variance_would_report_less() -> None:
    """The trap: a Gaussian of the same variance has neither the steps nor the rounding."""
    figures = {"sensitivity": 1.0, "length": 5000, "scale_log2": 12, "releases": 20, "delta": 1e-5}
    bound = skellam_epsilon(std=4.0, rate=1.0, **figures)
    accountant = pld.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(GaussianDpEvent(4.0), 20)
    gaussian = accountant.get_epsilon(1e-5)
    assert gaussian == pytest.approx(4.983, abs=0.001)
    assert bound == pytest.approx(5.48, abs=0.01)
    # not only a matter of the bound: the exact delta of one value is above the Gaussian's, at coarse steps
    from scipy.stats import norm

    variance, shift, epsilon = 4.0, 3, 0.5
    sigma = math.sqrt(variance) / shift
    upper, lower = norm.cdf(1 / (2 * sigma) - epsilon * sigma), norm.cdf(-1 / (2 * sigma) - epsilon * sigma)
    exact = exact_delta(pmf(variance, shift), pmf(variance, 0), epsilon)
    assert exact > 1.01 * (upper - math.exp(epsilon) * lower)


# -- the plan --------------------------------------------------------------------------------------


def spent(std: float, scale_log2: int, **changed: float) -> float:
    names = ("sensitivity", "length", "releases", "rate", "delta")
    return skellam_epsilon(
        scale_log2=scale_log2, std=std, **{**{name: PLAN[name] for name in names}, **changed}
    )


@pytest.mark.parametrize("changed", [{}, {"rate": 0.05, "releases": 300}, {"bound": 2.0**20, "length": 20}])
def test_the_noise_is_the_smallest_that_keeps_epsilon(changed: dict[str, float]) -> None:
    plan = {**PLAN, **changed}
    encoding, std = plan_shared_noise(**plan)
    names = ("length", "rate", "releases")
    figures = {name: plan[name] for name in names}
    assert spent(std, encoding.scale_log2, **figures) <= plan["epsilon"]
    assert spent(std * (1 - 1e-5), encoding.scale_log2, **figures) > plan["epsilon"]
    share = math.ldexp(std, encoding.scale_log2) ** 2 / plan["honest"]
    assert encoding.noise_variance == share <= 2.0**46
    assert (encoding.length, encoding.bound) == (plan["length"], plan["bound"])


def test_the_ring_is_narrow_where_that_is_enough() -> None:
    assert plan_shared_noise(**PLAN)[0].bits == 32
    # a bound so large that 32 bits leave steps too coarse for the sensitivity
    wide, std = plan_shared_noise(**{**PLAN, "bound": 2.0**20})
    assert wide.bits == 64
    assert std == pytest.approx(plan_shared_noise(**PLAN)[1], rel=1e-3)


def test_a_plan_is_deterministic_and_cached() -> None:
    first = plan_shared_noise(**PLAN)
    assert plan_shared_noise(**PLAN) is first
    plan_shared_noise.cache_clear()
    assert plan_shared_noise(**PLAN) == first


def test_only_honest_shares_are_counted() -> None:
    """Planned 5, present 3: were the noise spread over 5 shares, 3 would leave epsilon 11, not 8."""
    encoding, std = plan_shared_noise(**PLAN)
    honest = PLAN["honest"] * encoding.noise_variance
    assert honest == pytest.approx(math.ldexp(std, encoding.scale_log2) ** 2, rel=1e-12)
    assert spent(std, encoding.scale_log2) <= 8.0
    naive = math.sqrt(3 / 5) * std
    assert spent(naive, encoding.scale_log2) == pytest.approx(10.9, abs=0.2)


def test_shares_sum_to_the_planned_noise_in_the_ring() -> None:
    encoding, std = plan_shared_noise(**PLAN)
    total = np.zeros(encoding.length + 4, encoding.dtype)
    values = np.linspace(-1, 1, encoding.length)
    for _ in range(PLAN["honest"]):
        words = encode(values, encoding)
        add_noise(words, skellam(encoding.length, encoding.noise_variance), encoding)
        total += words
    noise = decode_sum(total, encoding, PLAN["sites"]) - PLAN["honest"] * values
    # 7 standard errors of a variance of 5000 values
    assert abs(noise.var() / std**2 - 1) < 7 * math.sqrt(2 / encoding.length)


def test_rounding_that_inflates_the_sensitivity_is_refused() -> None:
    assert spent(3.0, 12) > 0
    with refusal("protocol.encoding"):
        spent(3.0, 11)  # sqrt(5000) is 3.5% of 2048
    with pytest.raises(PlasmidError, match=r"would inflate the sensitivity of 1 by 3%; at most 2%"):
        spent(3.0, 11)


def test_a_vector_too_long_for_any_ring_is_refused() -> None:
    with refusal("protocol.encoding"):
        plan_shared_noise(**{**PLAN, "bound": 2.0**60})


def test_all_wrong_figures_are_told_at_once() -> None:
    wrong = {**PLAN, "rate": 0.0, "epsilon": -1.0, "sensitivity": 0.0, "honest": 6, "delta": 1.0}
    with pytest.raises(PlasmidError) as caught:
        plan_shared_noise(**wrong)
    assert caught.value.code == "usage.privacy"
    for what in ("rate", "epsilon", "delta", "sensitivity", "shares counted must be 1 to 5"):
        assert what in caught.value.message
    with refusal("usage.privacy"):
        spent(0.0, 20)
