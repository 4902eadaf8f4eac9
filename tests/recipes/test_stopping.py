"""When a run is over and which state is the best, from numbers; and what a site adds to its vector."""

from __future__ import annotations

import numpy as np
import pytest

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations import api
from plasmid.gateway.output import bounded
from plasmid.recipes.stopping import HELD, MOST_LOSS, Choice, Stop, judged, loss_in

SHAPE = api.Shape(AdapterSchema((TensorSpec("a", (3,)), HELD)), 10.0, 2.0, 32, beside=2)


@pytest.mark.parametrize(
    ("stop", "losses", "best", "over"),
    [
        ({"patience": 2}, [3.0, 2.0, 2.5, 1.9], 3, False),
        ({"patience": 2}, [3.0, 2.0, 2.5, 2.0], 1, True),  # as good is not better
        ({"patience": 2, "min_delta": 0.2}, [3.0, 2.0, 1.9, 1.85], 1, True),
        ({"patience": 2, "min_delta": 0.2}, [3.0, 2.0, 1.9, 1.79], 3, False),
        ({"patience": 1}, [3.0, 3.1], 0, True),  # it never learned: the first state is the best
        ({"patience": 3}, [3.0], 0, False),
    ],
)
def test_the_best_state_and_the_end_follow_from_the_losses(
    stop: dict[str, float], losses: list[float], best: int, over: bool
) -> None:
    rule = Stop.model_validate({"share": 0.1} | stop)
    choice = Choice.of(rule, losses)
    assert (choice.best, choice.over) == (best, over)
    assert choice.as_json() == {"release": "best", "after": best, "losses": losses}
    last = Choice.of(rule.model_copy(update={"release": "last"}), losses)
    assert last.as_json()["after"] == len(losses)


def test_the_mean_is_over_the_sites_that_hold_rows_back_whatever_their_number() -> None:
    sites = [np.array([1.0, 3.0]), np.array([4.0] * 100), np.empty(0), np.array([np.nan, 99.0])]
    vectors = [np.concatenate([np.zeros(3, np.float32), judged(losses, SHAPE)]) for losses in sites]
    assert all(vector.dtype == np.float32 for vector in vectors)
    total = np.sum(vectors, axis=0, dtype=np.float64)
    assert loss_in(api.Sum(total, 4, 1), SHAPE) == pytest.approx((2.0 + 4.0 + MOST_LOSS) / 3)
    assert loss_in(api.Sum(np.zeros(5), 4, 1), SHAPE) == MOST_LOSS  # nobody has rows: never an improvement


def test_the_clip_is_over_the_update_and_what_is_beside_it_has_bounds_of_its_own() -> None:
    vector, norm = bounded(np.array([3, 4, 0, 8, 10], np.float32), SHAPE, noised=False)
    assert norm == 5.0
    np.testing.assert_allclose(vector, [1.2, 1.6, 0, 8, 10], rtol=1e-6)
    vector, norm = bounded(np.array([0, 0, 1, -3, 1e9], np.float32), SHAPE, noised=False)
    assert vector.tolist() == [0, 0, 1, 0, 10]
    assert norm == 1.0
