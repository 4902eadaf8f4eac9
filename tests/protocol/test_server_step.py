"""The server's step in numpy is upstream's, to the last bit, round after round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plasmid.federation.server import ServerOptimiser, build_strategy
from plasmid.models.adapter import AdapterSchema, TensorSpec
from plasmid.protocol.server_step import server_step

SCHEMA = AdapterSchema(tensors=(TensorSpec(name="a", shape=(3, 4)), TensorSpec(name="b", shape=(5,))))


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("FedAvg", {}),
        ("FedAvgM", {}),
        ("FedAvgM", {"server_momentum": 0.9}),
        ("FedAvgM", {"server_learning_rate": 0.5}),
        ("FedAvgM", {"server_learning_rate": 0.5, "server_momentum": 0.75}),
        ("FedAdam", {}),
        ("FedAdam", {"eta": 0.01, "eta_l": 0.2, "beta_1": 0.5, "beta_2": 0.9, "tau": 1}),
        ("FedYogi", {}),
        ("FedYogi", {"eta": 0.3, "beta_1": 0.8, "tau": 1e-2}),
    ],
)
def test_six_rounds_are_those_of_upstream(strategy: str, options: dict[str, Any]) -> None:
    upstream = ServerOptimiser(build_strategy(strategy, options), SCHEMA)
    ours = server_step(strategy, options)
    assert ours is not None
    source = np.random.default_rng(3)
    theirs = own = source.standard_normal(SCHEMA.size).astype(np.float32)
    start = own
    for round_ in range(1, 7):
        update = source.standard_normal(SCHEMA.size).astype(np.float32) * np.float32(0.1)
        theirs = upstream.step(round_, theirs, theirs + update)
        own = ours.step(round_, own, own + update)
        assert own.dtype == np.float32
        assert np.array_equal(own, theirs), round_
    assert np.abs(own - start).max() > 1e-3


def test_what_has_no_rule_here_cannot_be_re_run() -> None:
    assert server_step("FedAdagrad", {}) is None
    assert server_step("FedAdam", {"gamma": 1.0}) is None


@pytest.mark.parametrize(
    ("strategy", "options", "remembers"),
    [
        ("FedAvg", {}, False),
        ("FedAvgM", {"server_learning_rate": 0.5}, False),
        ("FedAvgM", {"server_momentum": 0.5}, True),
        ("FedAdam", {}, True),
        ("FedYogi", {}, True),
    ],
)
def test_which_steps_need_the_rounds_before(strategy: str, options: dict[str, Any], remembers: bool) -> None:
    step = server_step(strategy, options)
    assert step is not None
    assert step.remembers is remembers
