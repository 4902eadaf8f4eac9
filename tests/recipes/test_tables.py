"""The question for a table from a recipe's contract: which columns are axes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from plasmid.core.errors import UsageError
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import noised
from plasmid.recipes.schema import Recipe
from plasmid.recipes.tables import counts_from_recipe


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("tcr-covid").recipe


def test_axes_come_from_the_contract(recipe: Recipe) -> None:
    asked = counts_from_recipe(
        recipe, ["label", "sex"], edges={}, sum_of="age", missing="skip", privacy=noised(1.0, 1e-6, 2**0.5)
    )
    label, sex = asked.axes
    contract: Any = recipe.data.columns
    assert (label.cells, sex.cells[:-1]) == (("0", "1"), contract["sex"].vocabulary)
    assert asked.sum_of is not None
    assert asked.sum_of.bounds == contract["age"].bounds
    assert (asked.name, asked.patient, asked.federation.spare_attempts) == ("counts-tcr-covid", None, 0)
    assert asked.privacy.record_clip == pytest.approx(2**0.5)


def test_a_number_is_cut_within_its_bounds(recipe: Recipe) -> None:
    (age,) = counts_from_recipe(recipe, ["age"], edges={"age": [60, 40]}).axes
    contract: Any = recipe.data.columns
    low, high = contract["age"].bounds
    assert age.edges_of_cells == (low, 40.0, 60.0, high)
    assert age.missing_markers == contract["age"].missing_markers


@pytest.mark.parametrize(
    ("by", "more", "what"),
    [
        (["age"], {}, "'age' is no category"),
        (["cdr3"], {}, "'cdr3' is no category"),
        (["nothing"], {}, "'nothing' is no category"),
        (["sex", "sex"], {}, "a column has one part"),
        (["sex"], {"sum_of": "label"}, "'label' is no number column"),
        (["sex"], {"missing": "drop"}, "'cell' or 'skip'"),
        ([], {}, "at least 1 item"),
    ],
)
def test_what_is_no_table(recipe: Recipe, by: list[str], more: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        counts_from_recipe(recipe, by, edges={}, **more)
    assert caught.value.code == "usage.query_invalid"
