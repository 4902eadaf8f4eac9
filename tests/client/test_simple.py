"""The classical model: the reference figures, and the corners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.data.views.reading import read_table
from plasmid.experiments.simple import fit, simple_scores
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.recipes.sites import materialise_eval, materialise_sites
from support.tiny.tiny_kinds import kind_recipe, kind_table
from support.tiny.tiny_language import language_document, language_table


def tables(name: str, folder: Path) -> tuple[Recipe, dict[str, Table], Table]:
    resolved = load_recipe(name)
    contract = resolved.recipe.contract
    test = materialise_eval(resolved, folder)
    assert test is not None
    sites = materialise_sites(resolved, folder)
    return (
        resolved.recipe,
        {site: read_table(path, contract) for site, path in sites.items()},
        read_table(test, contract),
    )


@pytest.mark.parametrize(
    ("name", "central", "local"), [("tcr-covid", 0.8406, 0.7898), ("phenotype", 0.930, 0.568)]
)
def test_the_reference_figures(name: str, central: float, local: float, tmp_path: Path) -> None:
    scores = simple_scores(*tables(name, tmp_path))
    assert scores["central"] == pytest.approx(central, abs=0.003)
    assert scores["local"] == pytest.approx(local, abs=0.003)


def test_probabilities_have_a_column_for_every_label_seen_or_not(tmp_path: Path) -> None:
    recipe = load_recipe("phenotype").recipe
    labels = recipe.task.classes
    table = Table(
        {"definition": ["of the eye", "of the ear"] * 3, "organ_system": [labels[7], labels[5]] * 3}, 6
    )
    probabilities = fit(recipe, table).predict(table).values
    assert probabilities.shape == (6, 14)
    assert probabilities.sum(axis=1) == pytest.approx([1.0] * 6)
    assert (probabilities[:, [0, 1, 2, 3, 4, 6]] == 0).all()
    assert (probabilities.argmax(axis=1) == [7, 5] * 3).all()


def test_a_site_with_one_label_learns_that_label() -> None:
    recipe = load_recipe("tcr-covid").recipe
    table = Table({"cdr3": ["CASS"] * 4, "v_gene": [None] * 4, "j_gene": [None] * 4, "label": ["1"] * 4}, 4)
    assert fit(recipe, table).predict(table).values.tolist() == [[0.0, 1.0]] * 4


@pytest.mark.parametrize(("kind", "at_least"), [("regression", 0.75), ("token-classification", 0.9)])
def test_further_kinds_have_a_classical_model(kind: str, at_least: float, tiny: dict[str, BaseModel]) -> None:
    recipe = kind_recipe(tiny["bert"], kind)
    sites = {"a": kind_table(kind, 80), "b": kind_table(kind, 40, seed=1)}
    test = kind_table(kind, 60, seed=9)
    found = simple_scores(recipe, sites, test)
    assert found["central"] > at_least
    assert 0.3 < found["local"] <= found["central"] + 0.05
    answers = fit(recipe, sites["a"]).predict(test)
    assert len(answers) == 60
    if kind == "token-classification":
        assert [len(row) for row in answers] == [len(str(one)) for one in test.columns["sequence"]]
        np.testing.assert_allclose(answers.values.sum(1), 1.0, atol=1e-5)
    else:
        assert answers.values.min() >= 0.0
        assert answers.values.max() <= 60.0


def test_a_site_without_a_labelled_residue_knows_nothing(tiny: dict[str, BaseModel]) -> None:
    recipe = kind_recipe(tiny["bert"], "token-classification")
    table = Table({"sequence": ["CAW", "W"], "label": ["...", "."]}, 2)
    assert fit(recipe, table).predict(table).values.tolist() == [[0.5, 0.5]] * 4


def test_an_answer_in_words_is_one_that_was_seen(tiny: dict[str, BaseModel]) -> None:
    document = language_document(tiny["bert"], "causal")
    recipe = Recipe.model_validate(document)
    table = Table({"sequence": ["cold wet", "hot dry"] * 20, "label": ["so  be it", "no"] * 20}, 40)
    test = Table({"sequence": ["so cold", "hot"], "label": ["so be it", "never"]}, 2)
    assert fit(recipe, table).predict(test).values.tolist() == [["so be it"], ["no"]]
    assert simple_scores(recipe, {"a": table}, test) == {"central": 0.5, "local": 0.5}
    document["task"]["metric"] = "perplexity"
    assert simple_scores(Recipe.model_validate(document), {"a": table}, test) == {
        "central": None,
        "local": None,
    }


def test_masked_residues_are_guessed_from_those_around_them(tiny: dict[str, BaseModel]) -> None:
    recipe = Recipe.model_validate(language_document(tiny["bert"], "masked-lm"))
    alike = Table({"sequence": [letter * 12 for letter in "ACDEFGHIKL" * 12]}, 120)
    found = fit(recipe, alike).predict(alike)
    loss, right = found.values.mean(0)
    assert right > 0.95
    assert loss < 0.6
    assert recipe.head().score("masked-loss", found, ()) == pytest.approx(float(loss), abs=1e-5)
    varied = fit(recipe, language_table("masked-lm", 60)).predict(language_table("masked-lm", 30, seed=3))
    assert 1.0 < float(varied.values[:, 0].mean()) < np.log(20)
