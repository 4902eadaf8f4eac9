"""Recipes of further kinds of task: what has to fit together, and what their digest covers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from plasmid.bases.store import BaseModel
from plasmid.recipes import digest as digest_module
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document
from plasmid.recipes.schema import Recipe
from plasmid.tasks import source_of
from support.tiny.tiny_kinds import KINDS, document_of, kind_recipe
from support.tiny.tiny_language import language_document, language_recipe


def problems(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (path, what) of every contradiction."""
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(document)
    (error,) = caught.value.errors()
    assert error["type"] == "contradiction", error
    return [(".".join(map(str, path)), what) for path, what in error["ctx"]["problems"]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_says_itself_again(kind: str, tiny: dict[str, BaseModel]) -> None:
    document = document_of(tiny["bert"], kind)
    recipe = kind_recipe(tiny["bert"], kind)
    assert recipe.model_dump(mode="json")["task"] == document["task"]
    assert parse_document(recipe.model_dump(mode="json")) == recipe
    head = recipe.head()
    assert (head.kind, head.classes) == (kind, recipe.task.classes)
    assert recipe.contract.label == "label"
    given = [name for name in recipe.contract.columns if recipe.contract.is_given(name)]
    assert given == ["sequence", "gene"], "a table to be predicted has no label, of whatever type"


def test_a_resolved_classification_has_the_keys_that_it_had(tiny: dict[str, BaseModel]) -> None:
    document = kind_recipe(tiny["bert"], "classification").model_dump(mode="json")
    assert document["task"] == {
        "kind": "classification",
        "labels": ["no", "yes"],
        "metric": "auc",
        "description": "",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_covers_the_loss_of_the_kind(
    kind: str, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = document_of(tiny["bert"], kind)
    before = recipe_digest(document, "finetune")
    assert before == recipe_digest(document, "finetune")
    other = source_of("regression" if kind != "regression" else "classification")
    monkeypatch.setattr(digest_module, "source_of", lambda _: other)
    assert recipe_digest(document, "finetune") != before


@pytest.mark.parametrize(
    ("kind", "change", "path", "what"),
    [
        (
            "regression",
            {"task": {"bounds": [0.0, 200.0]}},
            "task.bounds",
            "outside the label column's, 0 to 100",
        ),
        (
            "regression",
            {"data.columns.label": {"unit": "g"}},
            "task.unit",
            "is '%', the label column's is 'g'",
        ),
        (
            "regression",
            {"adapter": {"covariates": ["label"]}},
            "adapter.covariates.0",
            "is what is predicted",
        ),
        (
            "regression",
            {"data": {"label": "gene"}, "adapter": {"covariates": []}},
            "data.label",
            "of type category, label needs number",
        ),
        (
            "regression",
            {"task": {"metric": "mae"}, "release": {"min_metric": 0.5}},
            "release.min_metric",
            "less is better",
        ),
        (
            "token-classification",
            {"adapter": {"covariates": ["gene"]}},
            "adapter.covariates",
            "has no covariates",
        ),
        (
            "token-classification",
            {"data.columns.label": {"of": "gene"}},
            "data.columns.label.of",
            "no protein column",
        ),
        (
            "token-classification",
            {"task": {"labels": ["n", "."]}},
            "task.labels",
            "'.' says that a residue has no label",
        ),
        ("token-classification", {"task": {"labels": ["n", "n"]}}, "task.labels", "listed twice"),
        ("classification", {"task": {"labels": ["n", "n"]}}, "task.labels", "listed twice"),
    ],
)
def test_contradictions(
    kind: str, change: dict[str, Any], path: str, what: str, tiny: dict[str, BaseModel]
) -> None:
    document = document_of(tiny["bert"], kind)
    for place, values in change.items():
        part = document
        for key in place.split("."):
            part = part[key]
        part |= values
    found = problems(document)
    assert path in dict(found), found
    assert what in dict(found)[path]
    assert len(found) == (2 if path == "data.columns.label.of" else 1), found


def test_residues_are_those_of_the_input(tiny: dict[str, BaseModel]) -> None:
    document = document_of(tiny["bert"], "token-classification")
    document["data"]["columns"]["chain"] = document["data"]["columns"]["sequence"]
    document["data"]["columns"]["label"] = {"type": "residue_labels", "of": "chain"}
    assert problems(document) == [
        ("data.label", "labels the residues of 'chain', but data.input is 'sequence'")
    ]
    document["data"]["columns"]["sequence"] = {"type": "text", "max_length": 32}
    assert problems(document) == [
        ("data.input", "is a text column; only a protein has one label for each residue")
    ]


@pytest.mark.parametrize("kind", ["causal", "masked-lm"])
def test_a_document_whose_base_answers_itself_says_itself_again(
    kind: str, tiny: dict[str, BaseModel]
) -> None:
    recipe = language_recipe(tiny["bert"], kind)
    assert parse_document(recipe.model_dump(mode="json")) == recipe
    assert recipe.head().kind == kind
    assert recipe.contract.label == ("label" if kind == "causal" else None)
    assert [name for name in recipe.contract.columns if recipe.contract.is_given(name)] == ["sequence"]
    assert source_of(kind) is not None


@pytest.mark.parametrize(
    ("kind", "change", "path", "what"),
    [
        (
            "causal",
            {"data": {"label": None}},
            "data.label",
            "names no column; the task needs one of type text",
        ),
        ("causal", {"training": {"lora_lr": 0.0}}, "training.lora_lr", "trains nothing but factors"),
        ("causal", {"data.columns.sequence": {"type": "protein"}}, "data.input", "a prompt is a text"),
        (
            "causal",
            {"task": {"metric": "perplexity"}, "release": {"min_metric": 0.5}},
            "release.min_metric",
            "less",
        ),
        ("masked-lm", {"data": {"label": "sequence"}}, "data.label", "the task has no label; leave it out"),
        ("masked-lm", {"training": {"lora_lr": 0.0}}, "training.lora_lr", "trains nothing but factors"),
    ],
)
def test_contradictions_where_the_base_answers_itself(
    kind: str, change: dict[str, Any], path: str, what: str, tiny: dict[str, BaseModel]
) -> None:
    document = language_document(tiny["bert"], kind)
    for place, values in change.items():
        part = document
        for key in place.split("."):
            part = part[key]
        part |= values
    found = problems(document)
    assert [one[0] for one in found] == [path], found
    assert what in found[0][1]
