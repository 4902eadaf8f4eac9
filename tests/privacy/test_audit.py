"""The bound of a canary audit: the published program's, its known figures, and never more than the truth."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from plasmid.core.errors import ProtocolError
from plasmid.dp.canary_audit import Audit, planned_guesses
from plasmid.dp.canary_bound import epsilon_bound, p_value


def published(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Steinke, Nasr, Jagielski 2023, the loop of Appendix D."""
    accuracy = 1 / (1 + math.exp(-epsilon))
    alpha = mass = 0.0
    for i in range(1, v + 1):
        mass += binom.pmf(v - i, r, accuracy)
        alpha = max(alpha, mass / i)
    return min(float(binom.sf(v - 1, r, accuracy)) + alpha * delta * 2 * m, 1.0)


@given(
    m=st.integers(1, 300),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    epsilon=st.floats(0, 9),
    delta=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2, 1.0]),
)
def test_the_p_value_is_that_of_the_published_program(
    m: int, shares: tuple[float, float], epsilon: float, delta: float
) -> None:
    r = round(m * shares[0])
    v = round(r * shares[1])
    found = p_value(canaries=m, guesses=r, right=v, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(published(m, r, v, epsilon, delta), rel=1e-9, abs=1e-300)


def test_the_p_value_of_many_canaries_leaves_out_nothing_that_counts() -> None:
    """Beyond a few hundred guesses only the upper part of the sum is formed."""
    for right in (4_800, 5_600, 6_500, 8_000):
        found = p_value(canaries=15_000, guesses=10_000, right=right, epsilon=0.25, delta=1e-5)
        assert found == pytest.approx(published(15_000, 10_000, right, 0.25, 1e-5), rel=1e-9, abs=1e-300)


def test_how_much_so_many_canaries_can_show() -> None:
    """The figures by which canaries are planned: 95% confidence, delta 0, every guess right."""
    assert epsilon_bound(canaries=200, guesses=200, right=200) == pytest.approx(4.1936, abs=1e-4)
    assert epsilon_bound(canaries=8932, guesses=8932, right=8932) > 8.0
    assert epsilon_bound(canaries=8931, guesses=8931, right=8931) < 8.0
    assert epsilon_bound(canaries=300, guesses=200, right=200) == pytest.approx(4.1936, abs=1e-4)


def test_the_bound_falls_with_delta_confidence_and_errors() -> None:
    def bound(right: int = 190, **changed: float) -> float:
        return epsilon_bound(canaries=200, guesses=200, right=right, **changed)

    least = beta.ppf(0.05, 190, 11)  # without a delta: the log odds of Clopper and Pearson's least accuracy
    assert bound() == pytest.approx(math.log(least / (1 - least)), abs=2e-6)
    assert [round(bound(delta=delta), 2) for delta in (0.0, 1e-6, 1e-4, 1e-2)] == [2.40, 2.40, 2.39, 0.51]
    assert published(200, 200, 190, bound(delta=1e-2), 1e-2) == pytest.approx(0.05, abs=1e-5)
    assert bound(confidence=0.999) < bound(confidence=0.99) < bound(confidence=0.95)
    bounds = [bound(right) for right in range(0, 201, 10)]
    assert bounds == sorted(bounds)
    assert bound(100) == bound(0) == 0.0
    assert epsilon_bound(canaries=200, guesses=0, right=0) == 0.0


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_the_bound_of_a_mechanism_of_known_epsilon(epsilon: float) -> None:
    """Randomised response meets the theorem with equality: 5% of audits exceed it, and they come near."""
    source = np.random.default_rng(0)
    m, audits = 600, 500
    rights = source.binomial(m, 1 / (1 + math.exp(-epsilon)), audits)
    bounds = np.array([epsilon_bound(canaries=m, guesses=m, right=int(v)) for v in rights])
    wrong = int((bounds > epsilon).sum())
    assert binom.sf(wrong - 1, audits, 0.05) > 1e-6
    assert np.median(bounds) >= 0.75 * epsilon


def test_a_mechanism_with_a_delta() -> None:
    """Shows every coin with probability delta, else nothing: (0, delta)-DP, yet all guesses can be right."""
    m, delta = 20, 0.04
    source = np.random.default_rng(1)
    rights = np.where(source.random(4000) < delta, m, source.binomial(m, 0.5, 4000))
    bounds = {v: epsilon_bound(canaries=m, guesses=m, right=v, delta=delta) for v in range(m + 1)}
    assert np.mean([bounds[int(v)] > 0 for v in rights]) < 0.05
    ignoring = {v: epsilon_bound(canaries=m, guesses=m, right=v) for v in range(m + 1)}
    assert np.mean([ignoring[int(v)] > 0 for v in rights]) > 0.05, "without delta the claim would be wrong"


@pytest.mark.parametrize(
    "figures",
    [
        {"right": 11},
        {"guesses": 21, "right": 21},
        {"right": -1},
        {"epsilon": -0.1},
        {"delta": 1.1},
        {"delta": math.nan},
    ],
)
def test_figures_of_no_audit_are_refused(figures: dict[str, Any]) -> None:
    sound = {"canaries": 20, "guesses": 10, "right": 5, "epsilon": 1.0, "delta": 0.0}
    assert p_value(**sound) < 1
    with pytest.raises(ValueError, match="no audit has"):
        p_value(**sound | figures)


def test_a_confidence_outside_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        epsilon_bound(canaries=1, guesses=1, right=1, confidence=1.0)


def test_the_verdicts_and_their_sentences() -> None:
    passed = Audit(canaries=30_000, guesses=20_000, right=10_200, epsilon=8.0, delta=1e-7)
    assert passed.verdict == "passed"
    assert passed.sentence == (
        "Canary audit passed: 10,200 of 20,000 guesses about 30,000 canaries were right, which shows "
        "epsilon >= 0.01 at 95% confidence (delta 1e-07), within the 8 that it is held against; up to 8.79 "
        "could have been shown."
    )
    powerless = Audit(canaries=300, guesses=200, right=104, epsilon=8.0, delta=1e-5)
    assert powerless.verdict == "no power"
    assert powerless.sentence == (
        "Canary audit without power: 104 of 200 guesses about 300 canaries were right, which shows "
        "epsilon >= 0.00 at 95% confidence (delta 1e-05), but at most 4.18 could have been shown, less than "
        "the 8 that it is held against: it says nothing for or against it."
    )
    failed = Audit(canaries=300, guesses=200, right=200, epsilon=3.0, delta=1e-5)
    assert failed.verdict == "failed"
    assert failed.sentence == (
        "Canary audit FAILED: 200 of 200 guesses about 300 canaries were right, which shows "
        "epsilon >= 4.18 at 95% confidence (delta 1e-05), more than the 3 that it is held against."
    )
    assert failed.bound == failed.possible == pytest.approx(4.1855, abs=1e-4)


def test_the_same_bound_is_a_failure_or_not_by_what_was_promised() -> None:
    bound = Audit(300, 200, 150, 0.5, 0.0).bound
    assert Audit(300, 200, 150, bound + 1e-9, 0.0).verdict == "passed"
    assert Audit(300, 200, 150, bound - 1e-9, 0.0).verdict == "failed"


def test_the_figures_as_json() -> None:
    audit = Audit(300, 200, 104, 8.0, 1e-5)
    figures = json.loads(json.dumps(audit.as_json(), allow_nan=False))
    assert figures == {
        "canaries": 300,
        "guesses": 200,
        "right": 104,
        "epsilon": 8.0,
        "delta": 1e-5,
        "confidence": 0.95,
        "bound": 0.0,
        "possible": audit.possible,
        "verdict": "no power",
        "sentence": audit.sentence,
    }


def test_a_sum_over_sites_is_one_audit() -> None:
    assert [planned_guesses(count) for count in (10, 200, 100_000)] == [2, 50, 25_000]
    found = Audit.of_sum(np.array([150.0, 140.0]), sites=3, canaries=200, epsilon=8.0, delta=1e-5)
    assert found == Audit(canaries=600, guesses=150, right=140, epsilon=8.0, delta=1e-5)


@pytest.mark.parametrize("total", [[149.0, 140.0], [150.0, 151.0], [150.0, -1.0], [0.0, 0.0]])
def test_a_sum_that_is_not_that_of_the_sites_is_refused(total: list[float]) -> None:
    with pytest.raises(ProtocolError) as caught:
        Audit.of_sum(np.array(total), sites=3, canaries=200, epsilon=8.0, delta=1e-5)
    assert caught.value.code == "protocol.audit"
    assert "where 3 sites make 150" in caught.value.message
