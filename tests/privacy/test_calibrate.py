"""The calculator: the noise that the run would use, and a plain no where it drowns the signal."""

from __future__ import annotations

import math

import pytest

from plasmid.core.errors import UsageError
from plasmid.dp.accounting import dp_sgd_noise
from plasmid.dp.calibrate import Plan, calibrate

SITE_LEVEL = Plan(
    epsilon=8.0,
    delta=1e-5,
    rounds=20,
    spare_attempts=0,
    mechanism="output",
    unit="site",
    sites=10,
    parameters=20_000,
)
DP_SGD = Plan(epsilon=2.0, delta=1e-5, rounds=10, steps=8, size=2000, batch=100, parameters=60_000)

SIGMA = 1.3298


def test_site_level_privacy_of_ten_sites_is_a_no() -> None:
    """10 sites, 20 rounds, epsilon 8, 20,000 values: even a trusted curator's noise is 38 times the clip."""
    found = calibrate(SITE_LEVEL)
    multiplier = dp_sgd_noise(rate=1.0, steps=20, epsilon=8.0, delta=1e-5)
    assert multiplier * math.sqrt(20_000) / 10 == pytest.approx(38.0, abs=0.1)
    assert found.central_noise_to_signal == pytest.approx(38.0, abs=0.1)
    # m = 6 and c = 1: 5 shares must do, so 10 give twice the variance
    assert found.noise_to_signal == pytest.approx(57.1, abs=0.1)
    assert found.noise_std == pytest.approx(found.noise_multiplier * math.sqrt(10 / 5) / 10, rel=1e-6)
    assert found.answer == "no"
    assert found.reason.startswith("the noise in the mean of 10 sites is 57 times the clip norm")
    assert "drowns the signal" in found.reason
    assert found.epsilon <= 8.0


def test_the_clip_cancels_in_the_ratio() -> None:
    larger = calibrate(Plan(**{**vars(SITE_LEVEL), "clip": 10.0}))
    assert larger.noise_to_signal == pytest.approx(calibrate(SITE_LEVEL).noise_to_signal, rel=1e-3)


def test_dp_sgd() -> None:
    found = calibrate(DP_SGD)
    multiplier = dp_sgd_noise(rate=100 / 2000, steps=96, epsilon=2.0, delta=1e-5)
    assert found.noise_multiplier == multiplier == SIGMA
    assert found.noise_std == multiplier / 100
    assert found.noise_to_signal == pytest.approx(multiplier * math.sqrt(60_000) / 100)
    assert found.answer == "perhaps"
    assert found.epsilon == pytest.approx(2.0, abs=0.01)
    assert found.epsilon <= 2.0
    assert found.epsilon_round < found.epsilon < 12 * found.epsilon_round
    small = calibrate(Plan(**{**vars(DP_SGD), "size": 400, "batch": 20}))
    assert small.answer == "no"
    assert "What helps: a larger batch" in small.reason
    assert calibrate(Plan(**{**vars(DP_SGD), "parameters": 100})).answer == "yes"
    unknown = calibrate(Plan(**{**vars(DP_SGD), "parameters": None}))
    assert (unknown.answer, unknown.noise_to_signal) == ("unknown", None)


def test_spare_attempts_cost_noise() -> None:
    assert calibrate(Plan(**{**vars(DP_SGD), "spare_attempts": 6})).noise_multiplier > SIGMA


def test_sharing_noise_inside_the_sum_needs_less_than_each_site_alone() -> None:
    one_step = {**vars(DP_SGD), "steps": 1, "rounds": 94, "sites": 6}
    alone, shared = calibrate(Plan(**one_step)), calibrate(Plan(**{**one_step, "mechanism": "dp-fedsgd"}))
    assert alone.noise_to_signal is not None
    assert shared.noise_to_signal is not None
    # the mean of six sites' own noise is alone / sqrt(6)
    assert shared.noise_to_signal < alone.noise_to_signal / math.sqrt(6)


def test_an_opaque_vector_under_unit_record_is_noised_for_twice_its_bound() -> None:
    plan = {**vars(SITE_LEVEL), "size": 5000}
    record = calibrate(Plan(**{**plan, "unit": "record"}))
    assert record.noise_to_signal == pytest.approx(2 * 57.07, rel=0.01)
    assert "dp-sgd or dp-fedsgd, which bound one unit" in record.reason


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        calibrate(
            Plan(
                epsilon=0.0,
                delta=0.01,
                rounds=0,
                steps=0,
                spare_attempts=-1,
                size=0,
                batch=0,
                clip=0.0,
                parameters=0,
            )
        )
    assert caught.value.code == "usage.privacy"
    for what in (
        "epsilon must be a number above 0, not 0",
        "the number of units must be at least 1, not 0",
        "the rounds must be at least 1, not 0",
        "the steps must be at least 1, not 0",
        "the spare attempts must be at least 0, not -1",
        "the batch must be at least 1, not 0",
        "the number of parameters must be at least 1, not 0",
        "the clip must be a number above 0, not 0",
    ):
        assert what in caught.value.message


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"delta": 5e-4}, "delta must be below 1/2000 = 0.0005"),
        ({"size": None}, "unit record needs the number of units"),
        ({"batch": None}, "dp-sgd needs the expected number of units"),
        ({"unit": "site"}, "unit site needs mechanism output, not dp-sgd"),
        ({"mechanism": "dp-fedsgd"}, "dp-fedsgd releases one step a round, not 8"),
        ({"mechanism": "output", "steps": 1, "sites": 2}, "shared noise needs at least 3 sites, not 2"),
        (
            {"mechanism": "output", "steps": 1, "sites": 4, "colluding": 3},
            "of 4 sites 1 to 2 may collude, not 3",
        ),
        (
            {"mechanism": "output", "steps": 1, "sites": 4, "parameters": None},
            "output needs the number of values",
        ),
    ],
)
def test_what_does_not_go_together(changed: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError) as caught:
        calibrate(Plan(**{**vars(DP_SGD), **changed}))  # type: ignore[arg-type]
    assert what in caught.value.message
