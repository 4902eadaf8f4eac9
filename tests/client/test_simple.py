"""The classical model: the reference figures, and the corners."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.client.simple import fit, simple_scores
from plasmid.data.reading import read_table
from plasmid.data.table import Table
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.recipes.sites import materialise_eval, materialise_sites


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
    labels = recipe.task.labels
    table = Table(
        {"definition": ["of the eye", "of the ear"] * 3, "organ_system": [labels[7], labels[5]] * 3}, 6
    )
    probabilities = fit(recipe, table).predict(table)
    assert probabilities.shape == (6, 14)
    assert probabilities.sum(axis=1) == pytest.approx([1.0] * 6)
    assert (probabilities[:, [0, 1, 2, 3, 4, 6]] == 0).all()
    assert (probabilities.argmax(axis=1) == [7, 5] * 3).all()


def test_a_site_with_one_label_learns_that_label() -> None:
    recipe = load_recipe("tcr-covid").recipe
    table = Table({"cdr3": ["CASS"] * 4, "v_gene": [None] * 4, "j_gene": [None] * 4, "label": ["1"] * 4}, 4)
    assert fit(recipe, table).predict(table).tolist() == [[0.0, 1.0]] * 4
