"""Upstream strategies over a secure sum: the same numbers as over six replies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as upstream

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.core.errors import PlasmidError, RunFailed
from plasmid.strategies.grid import SUM_NODE, Arrays, LinkGrid
from plasmid.strategies.server import ServerOptimiser, build_strategy

SCHEMA = AdapterSchema((TensorSpec("a", (3, 4)), TensorSpec("b", (5,)), TensorSpec("head.bias", (2,))))
SITES = 6
ROUNDS = 5
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "FedAvg": [{}],
    "FedAvgM": [{}, {"server_learning_rate": 0.7, "server_momentum": 0.9}],
    "FedAdam": [{}, {"eta": 0.02, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}],
    "FedYogi": [{}, {"eta": 0.03, "tau": 0.05}],
    "FedAdagrad": [{}, {"eta": 0.05, "tau": 0.02}],
}
CASES = [(name, options) for name, some in OPTIONS.items() for options in some]


def start() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 0.3, SCHEMA.size).astype(np.float32)


def updates(round_: int, state: np.ndarray) -> np.ndarray:
    """Return what each site adds to *state*: pulled to zero, and noise of its own."""
    source = np.random.default_rng(round_)
    noise = source.normal(0, 0.05, (SITES, SCHEMA.size))
    return (noise - 0.1 * state).astype(np.float32)


class SixReplies(LinkGrid):
    """The grid as it would be without secure aggregation: one reply a site, parameters and one example."""

    def __init__(self, replies: list[Arrays]) -> None:
        super().__init__(lambda arrays: arrays)
        self._replies = replies

    def get_node_ids(self) -> list[int]:
        return list(range(SUM_NODE, SUM_NODE + SITES))

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        answers = []
        for message, reply in zip(messages, self._replies, strict=True):
            record = ArrayRecord({name: Array(values) for name, values in reply.items()})
            metrics = MetricRecord({"num-examples": 1})
            answers.append(Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message))
        return answers


def upstream_states(name: str, options: dict[str, Any]) -> list[np.ndarray]:
    """Run the strategy as flwr does, over six replies a round."""
    strategy = getattr(upstream, name)(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=SITES, min_available_nodes=SITES, **options
    )
    state, states = start(), []
    for round_ in range(1, ROUNDS + 1):
        replies = [SCHEMA.unflatten(state + update) for update in updates(round_, state)]
        grid = SixReplies(replies)
        arrays = ArrayRecord({name: Array(value) for name, value in SCHEMA.unflatten(state).items()})
        messages = list(strategy.configure_train(round_, arrays, ConfigRecord(), grid))
        assert len(messages) == SITES
        result, _ = strategy.aggregate_train(round_, grid.send_and_receive(messages))
        assert result is not None
        state = SCHEMA.flatten({name: array.numpy().astype(np.float32) for name, array in result.items()})
        states.append(state)
    return states


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_secure_mean_gives_what_six_replies_give(name: str, options: dict[str, Any]) -> None:
    optimiser = ServerOptimiser(build_strategy(name, options))
    state, expected = start(), upstream_states(name, options)
    for round_ in range(1, ROUNDS + 1):
        # as the controller does it: the mean of the updates, in float64, added to the state
        mean = updates(round_, state).astype(np.float64).mean(axis=0).astype(np.float32)
        state = optimiser.step(round_, state, state + mean)
        assert state.dtype == np.float32
        assert state.shape == (SCHEMA.size,)
        assert np.abs(state - expected[round_ - 1]).max() <= 5e-7
    # the positive control: the rounds moved the state, and not by rounding
    assert np.abs(state - start()).max() > 0.01


def test_the_strategies_differ() -> None:
    """A comparison that any strategy passes would be none."""
    ends = {str(case): upstream_states(*case)[-1] for case in CASES}
    same = [
        (one, two) for one in ends for two in ends if one < two and np.abs(ends[one] - ends[two]).max() < 1e-4
    ]
    assert same == [("('FedAvg', {})", "('FedAvgM', {})")]  # FedAvgM without momentum is FedAvg


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_result_that_is_not_finite_is_refused(name: str, value: float) -> None:
    averaged = start()
    averaged[14] = value  # in the second tensor
    with pytest.raises(RunFailed, match="not finite in round 3") as caught, np.errstate(all="ignore"):
        ServerOptimiser(build_strategy(name, {})).step(3, start(), averaged)
    assert caught.value.code == "run.not_finite"


def test_a_rate_that_diverges_is_refused() -> None:
    optimiser = ServerOptimiser(build_strategy("FedAvgM", {"server_learning_rate": 1e38}))
    with pytest.raises(RunFailed) as caught, np.errstate(all="ignore"):
        optimiser.step(1, start(), start() + 9)
    assert caught.value.code == "run.not_finite"


def test_options_reach_the_strategy() -> None:
    built: Any = build_strategy("FedAdam", {"eta": 0.5, "tau": 1})
    assert (built.eta, built.tau, built.beta_1) == (0.5, 1, 0.9)
    assert (built.fraction_train, built.fraction_evaluate, built.min_available_nodes) == (1.0, 0.0, 1)


def test_the_grid_has_one_node_and_no_single_messages() -> None:
    grid = LinkGrid(lambda arrays: arrays)
    assert list(grid.get_node_ids()) == [SUM_NODE]
    for use in (lambda: grid.push_messages([]), lambda: grid.pull_messages([])):
        with pytest.raises(PlasmidError) as caught:
            use()
        assert caught.value.code == "run.strategy"
