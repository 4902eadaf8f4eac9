"""Trees from summed histograms: what a record adds, what becomes of a level, that XGBoost grows the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from plasmid.computations import trees
from plasmid.computations.api import Sum
from plasmid.data.table import Table
from plasmid.experiments.trees import grown
from plasmid.recipes.trees import TreesRecipe, record_norm
from plasmid.secagg.ring import TAIL, decode_sum, encode, plan_encoding
from support.federation.bundle_recipes import computed

LABELS = {"kind": "classification", "labels": ["no", "yes"], "metric": "auc"}
NUMBERS = {"kind": "regression", "unit": "1", "bounds": [-10.0, 30.0], "metric": "rmse"}
EDGES = {"a": [-1.0, -0.3, 0.0, 0.4, 1.1], "b": [0.5], "c": [10.0, 20.0, 30.0, 40.0]}


def document(task: dict[str, Any] = LABELS, **settings: Any) -> TreesRecipe:
    label: dict[str, Any] = {"type": "label"}
    if task is NUMBERS:
        label = {"type": "number", "bounds": [-100.0, 100.0]}
    columns = {name: {"type": "number", "bounds": [-100.0, 100.0]} for name in EDGES}
    columns["b"]["missing"] = "allowed"
    return TreesRecipe.model_validate(
        {
            "computation": "trees",
            "name": "tiny",
            "title": "Tiny",
            "task": task,
            "data": {"label": "y", "columns": {**columns, "y": label}, "max_rows": 5000},
            "trees": {
                "count": 4,
                "depth": 3,
                "features": [{"column": name, "edges": edges} for name, edges in EDGES.items()],
            }
            | settings,
        }
    )


def rows(count: int, *, numbers: bool = False, seed: int = 0) -> Table:
    source = np.random.default_rng(seed)
    a, b, c = source.normal(size=count), source.integers(0, 2, count), source.uniform(0, 50, count)
    signal = 1.5 * (a > 0.2) - 2.0 * ((c > 23) & (b == 1)) + source.normal(size=count)
    lost = source.random(count) < 0.2 + 0.3 * (signal > 0)
    target: list[Any] = (10 + 8 * signal).tolist() if numbers else np.where(signal > 0, "yes", "no").tolist()
    shown: list[Any] = [None if gone else float(value) for gone, value in zip(lost, b, strict=True)]
    return Table({"a": a.tolist(), "b": shown, "c": c.tolist(), "y": target}, count)


def by_xgboost(recipe: TreesRecipe, table: Table) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Return the model that XGBoost grows of the cells of *table*, and what it says of them."""
    cells = [
        [np.nan if value is None else feature.of(value) for value in table.columns[feature.column]]
        for feature in recipe.cells
    ]
    labelled = recipe.task.kind == "classification"
    truth = [value == "yes" for value in table.columns["y"]] if labelled else table.columns["y"]
    target = np.asarray(truth, np.float64) if labelled else np.clip(np.asarray(truth, np.float64), -10, 30)
    settings = recipe.trees
    data = xgboost.DMatrix(np.array(cells, np.float32).T, target)
    booster = xgboost.train(
        {
            "objective": "binary:logistic" if labelled else "reg:squarederror",
            "base_score": 0.5 if labelled else 10.0,
            "tree_method": "hist",
            "max_bin": 64,
            "max_depth": settings.depth,
            "eta": settings.learning_rate,
            "lambda": settings.l2,
            "min_child_weight": settings.min_child_weight,
            "nthread": 1,
        },
        data,
        settings.count,
    )
    return json.loads(booster.save_raw("json").decode()), booster.predict(data)


def loaded(content: bytes) -> xgboost.Booster:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(content))
    return booster


def plain(table: Table) -> xgboost.DMatrix:
    columns = [[np.nan if cell is None else cell for cell in table.columns[name]] for name in EDGES]
    return xgboost.DMatrix(np.array(columns, np.float32).T, feature_names=list(EDGES))


@pytest.mark.parametrize("task", [LABELS, NUMBERS], ids=["labels", "numbers"])
@pytest.mark.parametrize("settings", [{}, {"l2": 20.0, "min_child_weight": 9.0, "learning_rate": 0.7}])
def test_without_noise_the_trees_are_those_of_xgboost(task: dict[str, Any], settings: dict[str, Any]) -> None:
    recipe = document(task, **settings)
    table = rows(400, numbers=task is NUMBERS)
    state = grown(recipe, table)
    theirs, said = by_xgboost(recipe, table)
    (content,) = trees.files(recipe, state).values()
    ours = json.loads(content)
    grown_trees = [model["learner"]["gradient_booster"]["model"]["trees"] for model in (ours, theirs)]
    for own, other in zip(*grown_trees, strict=True):
        assert own["split_indices"] == other["split_indices"]
        assert own["left_children"] == other["left_children"]
        assert own["parents"] == other["parents"]
        leaves = np.array(own["left_children"]) < 0
        weights = [np.array(tree["split_conditions"])[leaves] for tree in (own, other)]
        np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(own["loss_changes"], other["loss_changes"], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(own["sum_hessian"], other["sum_hessian"], rtol=1e-4)
        splits = [place for place, at in enumerate(own["left_children"]) if at >= 0]
        for place in splits:
            edges = recipe.cells[own["split_indices"][place]].edges
            if own["split_conditions"][place] in edges:
                assert edges.index(own["split_conditions"][place]) + 1 == other["split_conditions"][place]
            else:  # what is there from what is missing
                assert own["split_indices"][place] == 1
                assert other["split_conditions"][place] > len(edges)
            if own["split_indices"][place] == 1:
                assert own["default_left"][place] == other["default_left"][place]
    np.testing.assert_allclose(trees.answers(recipe, state, table.columns)[:, -1], said, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", [LABELS, NUMBERS], ids=["labels", "numbers"])
def test_xgboost_loads_the_file_and_says_the_same_of_rows_it_never_saw(task: dict[str, Any]) -> None:
    recipe = document(task)
    state = grown(recipe, rows(300, numbers=task is NUMBERS))
    new = rows(200, numbers=task is NUMBERS, seed=1)
    booster = loaded(trees.files(recipe, state)["model.json"])
    said = booster.predict(plain(new))
    np.testing.assert_allclose(trees.answers(recipe, state, new.columns)[:, -1], said, rtol=1e-5, atol=1e-6)
    assert booster.num_boosted_rounds() == 4
    assert booster.feature_names == list(EDGES)
    at_an_edge = Table({"a": [0.0, -1e-9], "b": [None, 0.5], "c": [10.0, 9.999999], "y": ["no", "no"]}, 2)
    said = booster.predict(plain(at_an_edge))
    np.testing.assert_allclose(trees.answers(recipe, state, at_an_edge.columns)[:, -1], said, atol=1e-6)


def test_three_sites_sums_in_the_ring_grow_the_forest_of_all_their_rows() -> None:
    recipe = document()
    tables = [rows(90, seed=seed) for seed in (2, 3, 4)]
    shape = trees.shape(recipe, None)
    encoding = plan_encoding(length=shape.schema.size, bound=shape.bound, sites=3, bits=shape.bits)
    state = trees.initial(recipe, shape)
    for round_ in range(1, recipe.rounds + 1):
        total = np.zeros(encoding.length + TAIL, encoding.dtype)
        for table in tables:
            vectors = [trees.per_record(recipe, state, row) for row in table.records()]
            whole = np.sum([np.zeros(shape.schema.size), *(one for one in vectors if one is not None)], 0)
            total += encode(whole, encoding)
        state = trees.advance(recipe, shape, state, Sum(decode_sum(total, encoding, 3), 3, round_))
    pooled = {name: [cell for table in tables for cell in table.columns[name]] for name in tables[0].columns}
    together = trees.forest(recipe, grown(recipe, Table(pooled, 270)))
    apart = trees.forest(recipe, state)
    assert apart.grown.tolist() == [1.0]
    np.testing.assert_array_equal(apart.feature, together.feature)
    np.testing.assert_array_equal(apart.cut, together.cut)
    np.testing.assert_allclose(apart.weight, together.weight, atol=1e-7)


def test_a_record_adds_its_derivatives_to_one_cell_of_each_feature() -> None:
    recipe = document(depth=1)
    shape = trees.shape(recipe, None)
    vector = trees.per_record(
        recipe, trees.initial(recipe, shape), {"a": 0.4, "b": None, "c": 9.0, "y": "yes"}
    )
    assert vector is not None
    parts = vector.reshape(2, -1)
    assert np.flatnonzero(parts[0]).tolist() == np.flatnonzero(parts[1]).tolist() == [4, 8, 9]
    assert parts[:, [4, 8, 9]].tolist() == [[-0.5] * 3, [0.75] * 3], "g = p - 1 and 3 p (1 - p), of p = 1/2"
    assert (shape.bound, shape.record_bound, shape.norm, shape.bits) == (5000.0, 1.0, None, 64)


@pytest.mark.parametrize("task", [LABELS, NUMBERS], ids=["labels", "numbers"])
def test_no_record_is_longer_than_what_the_noise_is_for(task: dict[str, Any]) -> None:
    recipe = document(task, count=1, depth=1, learning_rate=1.0)
    longest = record_norm(recipe.task.kind, 3)
    shape = trees.shape(recipe, None)
    found = []
    for weight in np.linspace(-12.0, 12.0, 97):
        two = document(task, count=2, depth=1)
        state = np.zeros(trees.shape(two, None).state.size)
        so_far = trees.forest(two, state)
        so_far.grown[0], so_far.weight[0, 0] = 0.5, weight if task is LABELS else weight / 12
        for value in ("yes", "no") if task is LABELS else (-10.0, 30.0):
            vector = trees.per_record(two, state, {"a": 0.0, "b": 0.0, "c": 0.0, "y": value})
            assert vector is not None
            found.append(float(np.linalg.norm(vector)))
    assert max(found) <= longest * (1 + 1e-9)
    assert max(found) > 0.99 * longest
    assert shape.schema.size == 2 * (6 + 3 + 5)


def test_the_worker_sums_the_records_of_a_snapshot_each_clipped_as_the_gateway_says() -> None:
    table = rows(40)
    shorter = {"unit": "record", "mechanism": "dp-fedsgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.5}
    plain = document()
    clipped = TreesRecipe.model_validate(plain.model_dump(mode="json") | {"privacy": shorter})
    state = trees.initial(plain, trees.shape(plain, None))
    vectors = [trees.per_record(plain, state, row) for row in table.records()]
    assert all(vector is not None and np.linalg.norm(vector) > 0.5 for vector in vectors)
    np.testing.assert_allclose(computed(plain, table, state), np.sum(vectors, 0), atol=1e-12)
    short = [vector * 0.5 / np.linalg.norm(vector) for vector in vectors if vector is not None]
    np.testing.assert_allclose(computed(clipped, table, state), np.sum(short, 0), atol=1e-12)


def test_a_level_by_hand() -> None:
    recipe = document(count=1, depth=1, l2=1.0, learning_rate=0.5, min_child_weight=0.5)
    shape = trees.shape(recipe, None)
    sums = np.zeros((2, 14))
    # Feature a: 4 in the second cell, -3 in the fourth; b and c see the same in one cell each.
    sums[0, [1, 3]], sums[1, [1, 3]] = [4.0, -3.0], [6.0, 3.0]
    sums[0, [6, 9]], sums[1, [6, 9]] = [1.0, 1.0], [9.0, 9.0]
    state = trees.advance(recipe, shape, trees.initial(recipe, shape), Sum(sums.reshape(-1), 3, 1))
    found = trees.forest(recipe, state)
    assert (found.feature[0, 0], found.cut[0, 0], found.missing_left[0, 0]) == (1.0, 1.0, 0.0)
    gain = 4**2 / (2 + 1) + 3**2 / (1 + 1) - 1 / (3 + 1)
    assert found.gain[0, 0] * 5000 == pytest.approx(gain)
    assert found.weight[0].tolist() == pytest.approx([-0.5 / 4, -0.5 * 4 / 3, 0.5 * 3 / 2])
    assert (found.cover[0] * 5000).tolist() == pytest.approx([3.0, 2.0, 1.0])
    assert trees.result(recipe, state, 3) == {
        "trees": 1,
        "splits": 1,
        "gain": {"a": 1.0, "b": 0.0, "c": 0.0},
        "sites": 3,
    }


def test_missing_values_go_where_the_gain_is_larger_and_can_be_parted_from_all_others() -> None:
    recipe = document(count=1, depth=1)
    shape = trees.shape(recipe, None)

    def split(present: tuple[float, float], lost: float) -> tuple[float, float]:
        sums = np.zeros((2, 14))
        sums[0, [6, 7, 8]], sums[1, [6, 7, 8]] = [*present, lost], 30.0
        state = trees.advance(recipe, shape, trees.initial(recipe, shape), Sum(sums.reshape(-1), 3, 1))
        found = trees.forest(recipe, state)
        assert found.feature[0, 0] == 2
        return float(found.cut[0, 0]), float(found.missing_left[0, 0])

    assert split((8.0, -8.0), 8.0) == (0.0, 2.0)
    assert split((8.0, -8.0), -8.0) == (0.0, 0.0)
    assert split((8.0, 8.0), -8.0) == (1.0, 0.0), "the last cut: what is there, and what is missing"


def test_a_node_that_nothing_improves_is_a_leaf_and_its_records_are_left_out_of_deeper_levels() -> None:
    recipe = document(count=1, depth=2)
    table = Table({"a": [0.0] * 9, "b": [1.0] * 9, "c": [5.0] * 9, "y": ["yes"] * 9}, 9)
    shape = trees.shape(recipe, None)
    state = trees.initial(recipe, shape)
    first = [trees.per_record(recipe, state, row) for row in table.records()]
    state = trees.advance(recipe, shape, state, Sum(np.sum(first, 0), 3, 1))
    assert [trees.per_record(recipe, state, row) for row in table.records()] == [None] * 9
    last = trees.advance(recipe, shape, state, Sum(np.zeros(shape.schema.size), 3, 2))
    assert not trees.forest(recipe, last).feature.any()
    weight = 0.3 * 4.5 / (9 * 0.25 + 1)
    assert trees.scores(recipe, last, table.columns).tolist() == pytest.approx([weight] * 9)
    said = loaded(trees.files(recipe, last)["model.json"]).predict(plain(table))
    assert said.tolist() == pytest.approx([1 / (1 + np.exp(-weight))] * 9, rel=1e-6)


def test_noise_below_zero_makes_no_side_and_no_number_that_is_not_finite() -> None:
    recipe = document(count=2, depth=3, l2=0.0)
    shape = trees.shape(recipe, None)
    state, source = trees.initial(recipe, shape), np.random.default_rng(0)
    for round_ in range(1, recipe.rounds + 1):
        state = trees.advance(recipe, shape, state, Sum(source.normal(0, 9, shape.schema.size), 3, round_))
    assert np.isfinite(state).all()
    assert (trees.forest(recipe, state).cover >= 0).all()
    loaded(trees.files(recipe, state)["model.json"])


def test_of_equal_gains_the_first_feature_and_edge_win() -> None:
    recipe = document(count=1, depth=1)
    shape = trees.shape(recipe, None)
    sums = np.zeros((2, 14))
    for cells in ([0, 2], [9, 12]):
        sums[0, cells], sums[1, cells] = [5.0, -5.0], 30.0
    sums[1, [6, 7]] = 30.0
    state = trees.advance(recipe, shape, trees.initial(recipe, shape), Sum(sums.reshape(-1), 3, 1))
    found = trees.forest(recipe, state)
    assert (found.feature[0, 0], found.cut[0, 0]) == (1.0, 0.0), "not c, and not a's next edge"
