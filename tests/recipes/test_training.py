"""Steps and rates by round: numbers that follow from the recipe and the round alone."""

from __future__ import annotations

from typing import Any

import pytest

from plasmid.recipes.training import Schedule, Training

BASE: dict[str, Any] = {"steps": 4, "batch": 8, "lora_lr": 0.1, "head_lr": 0.1, "covariate_lr": 0.1}


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({"kind": "constant"}, [1, 1, 1, 1]),
        ({"kind": "constant", "warmup_rounds": 2}, [1 / 3, 2 / 3, 1, 1]),
        ({"kind": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"kind": "linear", "final": 0.2}, [1, 0.8, 0.6, 0.4]),
        ({"kind": "linear", "warmup_rounds": 1}, [0.5, 1, 2 / 3, 1 / 3]),
        ({"kind": "cosine"}, [1, 0.853553, 0.5, 0.146447]),
        ({"kind": "cosine", "warmup_rounds": 1, "final": 0.1}, [0.5, 1, 0.775, 0.325]),
    ],
)
def test_a_factor_follows_from_the_round(settings: dict[str, Any], factors: list[float]) -> None:
    schedule = Schedule.model_validate(settings)
    assert [schedule.factor(round_, 4) for round_ in range(1, 5)] == pytest.approx(factors, abs=1e-6)


def test_the_first_rounds_may_have_steps_of_their_own() -> None:
    training = Training.model_validate(BASE | {"first_steps": [6, 3]})
    assert [training.steps_in(round_) for round_ in range(1, 5)] == [6, 3, 4, 4]
    assert training.most_steps == 6
    assert Training.model_validate(BASE).steps_in(1) == 4


def test_the_pace_of_all_rounds_is_that_of_each_one_after_another() -> None:
    said = {"steps": 1, "first_steps": [2], "schedule": {"kind": "linear"}}
    training = Training.model_validate(BASE | said)
    assert training.pace(4) == [1, 1, 0.75, 0.5, 0.25]
    assert training.pace(2, times=2) == [1, 1, 1, 1, 0.5, 0.5]


def test_steps_by_itself_follow_the_schedule_anew() -> None:
    assert Training.model_validate(BASE).anew(3) == [1, 1, 1]
    warm = {"schedule": {"kind": "linear", "warmup_rounds": 9}}
    assert Training.model_validate(BASE | warm).anew(4) == [1, 0.75, 0.5, 0.25]
    assert Training.model_validate(BASE | warm).anew(0) == []
