"""What a recipe's README promises is about the recipe as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plasmid.recipes import catalogue
from plasmid.recipes.load import load_recipe
from plasmid.recipes.trees import TreesRecipe

FOLDERS = sorted(path.parent for path in catalogue.ROOT.glob("*/recipe.yaml"))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_recipe_says_what_to_expect_of_it(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    recipe = load_recipe(folder.name).parsed
    assert text.startswith(f"# {folder.name}\n")
    assert f"\nplasmid run {folder.name}" in text
    assert re.search(r"took \*\*[\d.]+ (s|minutes)\*\* (on|of) (two|one)", text)
    lines = text.splitlines()
    (head,) = (cells(line) for line in lines if line.startswith("| after round |"))
    seeds = [cells(line) for line in lines if line.startswith("| seed ")]
    # what is told last is told of the recipe's last round
    assert int(head[-1]) == (recipe.trees.count if isinstance(recipe, TreesRecipe) else recipe.rounds)
    assert seeds
    assert all([float(value) for value in row[1:]] and len(row) == len(head) for row in seeds)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_recipe_s_readme_names_what_is_beside_it(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    variants = {path.stem for path in folder.glob("*.yaml")} - {"recipe"}
    assert all(f"`{name}`" in text for name in variants), "each variant, by its name"
    known = {folder.name, *variants}
    assert set(re.findall(rf"`({folder.name}-[a-z0-9-]+)`", text)) <= known
