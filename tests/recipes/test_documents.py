"""What a gateway takes from the network: resolved documents of known schemas, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plasmid.core.errors import RecipeError, UsageError
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import load_recipe
from plasmid.recipes.protection import Limits, Protection
from plasmid.recipes.query import PingDocument, QueryDocument, mean_from_bounds, mean_from_recipe
from plasmid.recipes.schema import Recipe


@pytest.fixture(scope="module")
def resolved() -> Any:
    return load_recipe("tcr-covid")


def documents(resolved: Any) -> list[Recipe | QueryDocument | PingDocument]:
    return [
        resolved.recipe,
        mean_from_recipe(resolved.recipe, "age"),
        PingDocument(length=1000, rounds=3),
    ]


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_document_survives_the_wire_and_keeps_its_digest(resolved: Any, index: int) -> None:
    document = documents(resolved)[index]
    sent = json.loads(json.dumps(document.model_dump(mode="json")))
    arrived = parse_document(sent)
    assert arrived == document
    assert type(arrived) is type(document)
    assert recipe_digest(sent, arrived.computation) == recipe_digest(
        document.model_dump(mode="json"), document.computation
    )
    assert arrived.seed == 0
    assert arrived.rounds == (50, 1, 3)[index]
    assert arrived.federation.min_sites == 3
    assert arrived.privacy.protect == "masked"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"computation": "shell"}, "recipe.computation_unknown"),
        ({"computation": None}, "recipe.computation_unknown"),
        ({"computation": ["finetune"]}, "recipe.computation_unknown"),
        ({"computation": "mean"}, "recipe.malformed"),
        ({"extra": 1}, "recipe.malformed"),
        ({"seed": 1.5}, "recipe.malformed"),
        ({"seed": "0"}, "recipe.malformed"),
        ({"seed": 10**400}, "recipe.malformed"),
        ({"seed": float("nan")}, "recipe.malformed"),
        ({"title": "x" * 2_000_000}, "recipe.malformed"),
        ({"title": "\ud800"}, "recipe.malformed"),
        ({"title": nested(100_000)}, "recipe.malformed"),
        ({"title": nested(12)}, "recipe.malformed"),
        ({"title": [0] * 100_000}, "recipe.malformed"),
        ({"title": b"bytes"}, "recipe.malformed"),
        ({"federation": {"rounds": 8}}, "recipe.not_resolved"),
    ],
)
def test_what_is_refused(resolved: Any, change: dict[str, Any], code: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_document({**resolved.document, **change})
    assert caught.value.code == code
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("document", [None, [], "finetune", {}, {1: 2}])
def test_what_is_no_document(document: Any) -> None:
    with pytest.raises(RecipeError):
        parse_document(document)


def test_an_error_names_places_and_no_values(resolved: Any) -> None:
    with pytest.raises(RecipeError, match=r"1 problem\(s\), at title") as caught:
        parse_document({**resolved.document, "title": ["canary"]})
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_digest_moves_with_the_seed_and_with_the_computation(resolved: Any) -> None:
    assert load_recipe("tcr-covid", seed=1).digest != resolved.digest == load_recipe("tcr-covid").digest
    assert recipe_digest(resolved.document, "mean") != recipe_digest(resolved.document, "finetune")
    with pytest.raises(RecipeError, match="no computation"):
        recipe_digest(resolved.document, "../../os")
    with pytest.raises(RecipeError, match="no computation"):
        recipe_digest(resolved.document, "api")
    with pytest.raises(RecipeError, match="canonical JSON"):
        recipe_digest({"x": float("inf")}, "mean")


def test_a_query_takes_its_bounds_from_the_recipe_or_from_the_caller(resolved: Any) -> None:
    query = mean_from_recipe(resolved.recipe, "age")
    assert query.bounds == (0.0, 120.0)
    assert query.max_rows == 1_000_000
    assert list(query.contract.columns) == ["age"]
    assert query.contract.columns["age"].missing == "allowed"
    assert mean_from_bounds("age", (0, 1)).bounds == (0.0, 1.0)
    with pytest.raises(UsageError, match=r"no number column 'cdr3' \(it has 'age'\)"):
        mean_from_recipe(resolved.recipe, "cdr3")
    for column, bounds in (("age", (1.0, 1.0)), ("", (0.0, 1.0)), ("age", (float("nan"), 1.0))):
        with pytest.raises(UsageError, match="no query for the mean"):
            mean_from_bounds(column, bounds)


@pytest.mark.parametrize(
    ("sites", "colluding", "sound"), [(2, 1, False), (3, 1, True), (3, 2, False), (4, 2, True)]
)
def test_masks_need_two_honest_sites(sites: int, colluding: int, sound: bool) -> None:
    limits = Limits(min_sites=sites, colluding_organisations=colluding)
    PingDocument(length=1, federation=limits, privacy=Protection(protect="none"))
    if sound:
        PingDocument(length=1, federation=limits)
    else:
        with pytest.raises(ValueError, match="sites"):
            PingDocument(length=1, federation=limits)
