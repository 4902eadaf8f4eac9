"""The server's part of a recipe: every strategy of flwr is taken with its own options, or refused by name."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
from flwr.serverapp import strategy as upstream
from pydantic import ValidationError

from plasmid.bases.store import BaseModel
from plasmid.recipes.server import IMPOSSIBLE, OPTIONS
from support.tiny.method_rounds import recipe

_NOT_THE_RECIPES = ("fraction_", "min_", "weighted_by_key", "arrayrecord_key", "configrecord_key", "self")


def upstream_strategies() -> list[str]:
    """Discover every strategy that flwr ships."""
    kinds = [(name, getattr(upstream, name)) for name in upstream.__all__]
    return sorted(
        name
        for name, kind in kinds
        if inspect.isclass(kind) and issubclass(kind, upstream.Strategy) and kind is not upstream.Strategy
    )


def problems(base: BaseModel, strategy: str, options: dict[str, Any]) -> list[tuple[str, str]]:
    """Return where and what is wrong with a recipe whose server has these."""
    try:
        recipe(base, "finetune", federation={"server": {"strategy": strategy, "options": options}})
    except ValidationError as error:
        (found,) = error.errors()
        return [(".".join(map(str, place)), what) for place, what in found["ctx"]["problems"]]
    return []


def test_each_strategy_of_flwr_is_taken_or_refused() -> None:
    assert not OPTIONS.keys() & IMPOSSIBLE.keys()
    assert {"FedAvg", "Krum"} <= set(upstream_strategies())
    assert sorted([*OPTIONS, *IMPOSSIBLE]) == upstream_strategies()


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_upstream(name: str) -> None:
    parameters = inspect.signature(getattr(upstream, name).__init__).parameters
    theirs = [one for one in parameters if not one.startswith(_NOT_THE_RECIPES) and not one.endswith("_fn")]
    assert set(OPTIONS[name]) == set(theirs)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_strategy_is_taken_with_upstream_s_own_values(tiny: dict[str, BaseModel], name: str) -> None:
    parameters = inspect.signature(getattr(upstream, name).__init__).parameters
    assert problems(tiny["esm"], name, {one: parameters[one].default for one in OPTIONS[name]}) == []


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_needs_more_than_a_sum_is_refused(tiny: dict[str, BaseModel], name: str) -> None:
    why, nearest = IMPOSSIBLE[name]
    expected = f"{name} {why}; the nearest here is {nearest}"
    assert problems(tiny["esm"], name, {"eta": -1}) == [("federation.server.strategy", expected)]


@pytest.mark.parametrize("name", ["FedAvgg", "fedavg", "os", "__name__x", "\x1b[31m"])
def test_a_strategy_that_does_not_exist_is_refused(tiny: dict[str, BaseModel], name: str) -> None:
    ((where, what),) = problems(tiny["esm"], name, {})
    assert where == "federation.server.strategy"
    assert what.startswith("must be one of FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad, not ")
    assert what.isprintable()
    assert ("did you mean 'FedAvg" in what) == (name in ("FedAvgg", "fedavg"))


@pytest.mark.parametrize(
    ("name", "options", "whats"),
    [
        ("FedAdam", {"beta1": 0.9}, ["is not an option of FedAdam (did you mean 'beta_1'?), which takes"]),
        ("FedAvgM", {"server_momentun": 0.9}, ["(did you mean 'server_momentum'?)"]),
        ("FedAvg", {"eta": 0.1}, ["is not an option of FedAvg, which takes no options"]),
        ("FedAdam", {"eta": "0.1"}, ["must be a number above 0, not '0.1'"]),
        ("FedAdam", {"eta": True}, ["must be a number above 0, not True"]),
        ("FedAdam", {"eta": 0, "tua": 1}, ["must be a number above 0, not 0", "is not an option of FedAdam"]),
        ("FedAdam", {"eta": math.nan, "tau": math.inf}, ["must be a number above 0, not nan", "not inf"]),
        ("FedAdam", {"eta": 10**400}, ["must be a number above 0, not 1000"]),
        ("FedAdam", {"eta": [0.1], "tau": {}}, ["must be a number above 0, not a list", "not a map"]),
        ("FedAvgM", {"server_momentum": 1}, ["must be a number at least 0 and below 1, not 1"]),
        ("FedYogi", {"beta_2": -0.1}, ["must be a number at least 0 and below 1, not -0.1"]),
        ("FedAdagrad", {"eta_l": -1}, ["must be a number at least 0, not -1"]),
        ("FedAvg", {"fraction_train": 0.5}, ["is not an option"]),
        ("FedAvg", {"min_train_nodes": 1}, ["is not an option"]),
        ("FedAvg", {"weighted_by_key": 1}, ["is not an option"]),
        ("FedAvg", {"arrayrecord_key": 1}, ["is not an option"]),
        ("FedAvg", {"train_metrics_aggr_fn": 1}, ["is not an option"]),
        ("FedAvg", {"self": 1}, ["is not an option"]),
    ],
)
def test_an_option_that_is_not_the_recipe_s_is_refused(
    tiny: dict[str, BaseModel], name: str, options: dict[str, Any], whats: list[str]
) -> None:
    found = problems(tiny["esm"], name, options)
    assert [where for where, _ in found] == [f"federation.server.options.{option}" for option in options]
    assert all(part in what for part, (_, what) in zip(whats, found, strict=True)), found
