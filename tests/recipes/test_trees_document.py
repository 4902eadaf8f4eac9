"""The document of trees: what contradicts itself, how features are cut, and what it resolves to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plasmid.core.errors import RecipeError
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import mean_from_recipe
from plasmid.recipes.tables import counts_from_recipe
from plasmid.recipes.trees import TreesRecipe

DP = {"unit": "record", "mechanism": "dp-fedsgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.4142}


def document(**changes: Any) -> dict[str, Any]:
    """Return a sound document; a change at ``a__b`` replaces what is there."""
    made: dict[str, Any] = {
        "computation": "trees",
        "name": "tiny",
        "title": "Tiny",
        "task": {"kind": "classification", "labels": ["no", "yes"], "metric": "auc"},
        "data": {
            "label": "y",
            "columns": {
                "z": {"type": "number", "bounds": [0, 9]},
                "a": {"type": "number", "bounds": [0, 9], "required": False},
                "sex": {"type": "category", "vocabulary": ["f", "m"]},
                "y": {"type": "label"},
            },
        },
        "trees": {"count": 2, "depth": 3, "features": [features("z", 1, 5), features("a", 2)]},
    }
    for path, value in changes.items():
        *above, last = path.split("__")
        part = made
        for key in above:
            part = part.setdefault(key, {})
        part[last] = value
    return made


def features(column: str, *edges: float) -> dict[str, Any]:
    return {"column": column, "edges": list(edges)}


def test_features_keep_their_order_whatever_order_the_columns_travel_in() -> None:
    recipe = TreesRecipe.model_validate(document())
    assert [(one.column, one.edges, one.missing, one.start, one.size) for one in recipe.cells] == [
        ("z", (1.0, 5.0), False, 0, 3),
        ("a", (2.0,), True, 3, 3),
    ]
    resolved = recipe.model_dump(mode="json")
    resolved["data"]["columns"] = dict(sorted(resolved["data"]["columns"].items()))
    assert parse_document(resolved) == recipe
    assert recipe.rounds == 6
    assert recipe.contract.label == "y"


def test_a_value_is_cut_as_float32_compares_it() -> None:
    recipe = TreesRecipe.model_validate(document(trees__features=[features("z", 0.1)]))
    (cells,) = recipe.cells
    assert cells.edges[0] != 0.1
    assert [cells.of(value) for value in (0.1, 0.0999999999, 0.0999, None)] == [1, 1, 0, 2]


@pytest.mark.parametrize(
    ("changes", "path", "what"),
    [
        ({"data__label": "x"}, "data.label", "names the column 'x'"),
        ({"data__label": "sex"}, "data.label", "of type category, label needs label"),
        (
            {"task__labels": ["a", "b", "c"], "task__metric": "accuracy"},
            "task.labels",
            "two labels apart, not 3",
        ),
        (
            {"task": {"kind": "token-classification", "labels": ["o", "d"], "metric": "macro-f1"}},
            "task.kind",
            "not for its residues",
        ),
        ({"trees__features": [features("x", 1)]}, "trees.features.0.column", "does not hold"),
        ({"trees__features": [features("sex", 1)]}, "trees.features.0.column", "a feature is a number"),
        ({"trees__features": [features("z", 2, 2)]}, "trees.features.0.edges", "edges rise"),
        ({"trees__features": [features("z", 2, 2 + 1e-9)]}, "trees.features.0.edges", "float32 rounds away"),
        ({"trees__features": [features("z", 1e39)]}, "trees.features.0.edges", "edges rise"),
        (
            {"trees__features": [features("z", 1), features("z", 2)]},
            "trees.features.1.column",
            "listed twice",
        ),
        ({"privacy": DP | {"record_clip": 2.0}}, "privacy.record_clip", "no record is longer than 1.41421"),
        ({"privacy": DP | {"unit": "patient"}}, "privacy.unit", "protects a record, not a patient"),
        (
            {"privacy": DP | {"mechanism": "output", "record_clip": None}},
            "privacy.mechanism",
            "dp-fedsgd, not output",
        ),
        ({"federation__min_sites": 2}, "federation.min_sites", "at least 3 sites"),
    ],
)
def test_contradictions(changes: dict[str, Any], path: str, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TreesRecipe.model_validate(document(**changes))
    (error,) = caught.value.errors()
    assert error["type"] == "contradiction", error
    found = {".".join(map(str, place)): said for place, said in error["ctx"]["problems"]}
    assert what in found.get(path, ""), found


def test_every_problem_of_a_file_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "computation: trees\nname: tiny\ntitle: Tiny\n"
        "task: {kind: classification, labels: [a, b], metric: auc}\n"
        "data:\n  label: y\n  columns:\n    x: {type: number, bounds: [0, 1]}\n    y: {type: label}\n"
        "trees:\n  count: 2\n  depth: 2\n  leaves: 4\n  features:\n    - {column: x, edges: [3, 1]}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = [line.strip() for line in caught.value.message.splitlines()[1:]]
    assert f"{path}:13: trees.leaves: unknown key" in lines
    assert any(line.startswith(f"{path}:15: trees.features[0].edges: edges rise") for line in lines), lines


def test_the_rows_of_a_recipe_for_trees_can_be_asked_about_first() -> None:
    recipe = load_recipe("flights").over_table
    asked = counts_from_recipe(recipe, ["late", "hour"], edges={"hour": [6, 12, 18]})
    assert [axis.cells for axis in asked.axes] == [
        ("on time", "late"),
        ("[0, 6)", "[6, 12)", "[12, 18)", "[18, 24]"),
    ]
    assert asked.patient is None
    assert mean_from_recipe(recipe, "temp").bounds == (-40.0, 130.0)


def test_the_shipped_forest_is_one_of_the_same_trees_under_both_names() -> None:
    plain, noised = load_recipe("flights"), load_recipe("flights-dp")
    assert isinstance(plain.parsed, TreesRecipe)
    assert isinstance(noised.parsed, TreesRecipe)
    assert plain.parsed.trees.features == noised.parsed.trees.features
    assert plain.parsed.privacy.unit == "none"
    assert noised.parsed.privacy.record_clip == pytest.approx(13**0.5, abs=1e-3)
    with pytest.raises(RecipeError, match="fine-tunes no base model") as caught:
        _ = plain.recipe
    assert caught.value.code == "recipe.no_model"
