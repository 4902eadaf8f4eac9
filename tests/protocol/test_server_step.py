"""The server's step in numpy is upstream's, to the last bit, round after round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.bases.store import BaseModel
from plasmid.computations import api, rolora
from plasmid.recipes.schema import Recipe
from plasmid.release.server_step import rule_of, server_step
from plasmid.strategies.server import ServerOptimiser, build_strategy, optimiser_of
from support.tiny.tiny_task import tiny_recipe

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
        ("FedAdagrad", {}),
        ("FedAdagrad", {"eta": 0.05, "eta_l": 0.2, "tau": 1e-3}),
    ],
)
def test_six_rounds_are_those_of_upstream(strategy: str, options: dict[str, Any]) -> None:
    upstream = ServerOptimiser(build_strategy(strategy, options))
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


@pytest.mark.parametrize("strategy", ["FedAvgM", "FedAdam"])
def test_halves_that_take_turns_have_a_memory_each(strategy: str, tiny: dict[str, BaseModel]) -> None:
    """RoLoRA: A's steps are those of an optimiser that has seen A alone, in its own rounds."""
    options: dict[str, Any] = {"server_momentum": 0.9} if strategy == "FedAvgM" else {"eta": 0.01}
    values = tiny_recipe(tiny["bert"]).model_dump(mode="json") | {"computation": "rolora"}
    values["federation"] |= {"rounds": 6, "server": {"strategy": strategy, "options": options}}
    document = Recipe.model_validate(values)
    schema = rolora.shape(document, tiny["bert"]).state
    rule = rule_of(document, schema)
    assert rule is not None
    (ours, remembers), upstream = rule, optimiser_of(document, schema)
    assert remembers
    parts = np.concatenate([np.full(spec.size, api.part_of(spec.name)) for spec in schema.tensors])
    alone = {part: server_step(strategy, options) for part in ("A", "B", "head", "covariates")}
    source, seen = np.random.default_rng(1), dict.fromkeys(alone, 0)
    state = theirs = source.normal(0, 0.1, schema.size).astype(np.float32)
    for round_ in range(1, 7):
        averaged = state.copy()
        learn = rolora.learns(document, round_)
        places = np.isin(parts, list(learn))
        averaged[places] += source.normal(0, 0.01, int(places.sum())).astype(np.float32)
        after, theirs = ours.step(round_, state, averaged), upstream.step(round_, theirs, averaged)
        for part, step in alone.items():
            here = parts == part
            if part not in learn:
                assert np.array_equal(after[here], state[here])  # no momentum of the other half moves it
                continue
            seen[part] += 1
            assert step is not None
            assert np.array_equal(after[here], step.step(seen[part], state[here], averaged[here]))
        assert np.array_equal(after, theirs), round_
        state = after
    assert seen == {"A": 3, "B": 3, "head": 6, "covariates": 6}


@pytest.mark.parametrize("method", ["fedsvd", "sketch"])
def test_factors_that_are_made_anew_have_no_memory(method: str, tiny: dict[str, BaseModel]) -> None:
    """The head steps by momentum, A and B are what came of the sum, also where A does not learn (FedSVD)."""
    options = {"server_momentum": 0.9}
    values = tiny_recipe(tiny["bert"]).model_dump(mode="json") | {"computation": method}
    values["adapter"]["sketch_width"] = 12 if method == "sketch" else None
    values["federation"] |= {"rounds": 4, "server": {"strategy": "FedAvgM", "options": options}}
    document = Recipe.model_validate(values)
    schema = api.method(document).shape(document, tiny["bert"]).state
    rule = rule_of(document, schema)
    assert rule is not None
    ours, upstream = rule[0], optimiser_of(document, schema)
    parts = np.concatenate([np.full(spec.size, api.part_of(spec.name)) for spec in schema.tensors])
    alone = {part: server_step("FedAvgM", options) for part in ("head", "covariates")}
    source = np.random.default_rng(1)
    state = source.normal(0, 0.1, schema.size).astype(np.float32)
    for round_ in range(1, 5):
        averaged = state + source.normal(0, 0.01, schema.size).astype(np.float32)
        after = ours.step(round_, state, averaged)
        assert np.array_equal(after, upstream.step(round_, state, averaged)), round_
        factors = np.isin(parts, ["A", "B"])
        assert np.array_equal(after[factors], averaged[factors])
        for part, step in alone.items():
            here = parts == part
            assert step is not None
            assert np.array_equal(after[here], step.step(round_, state[here], averaged[here]))
            assert np.array_equal(after[here], averaged[here]) is (round_ == 1)  # then momentum moves it on
        state = after


def test_what_has_no_rule_here_cannot_be_re_run() -> None:
    assert server_step("FedMedian", {}) is None
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
