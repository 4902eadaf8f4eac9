"""Every value of a resolved recipe says where it comes from; a recipe's folder can be copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.core.errors import UsageError
from plasmid.recipes.copying import copy
from plasmid.recipes.load import load_recipe
from plasmid.recipes.origins import leaves


def test_each_value_has_an_origin() -> None:
    resolved = load_recipe("tcr-covid", overrides={"adapter.lora.rank": "4", "data.split": "null"}, seed=7)
    found = resolved.origins
    assert list(found) == [".".join(map(str, path)) for path, _ in leaves(resolved.document)]
    assert found["seed"] == "--seed"
    assert found["adapter.lora.rank"] == found["data.split"] == "--set"
    assert found["adapter.lora.alpha"] == "recipe"
    assert found["data.columns.v_gene.vocabulary"] == "recipe"  # read in from a file that the recipe names
    assert found["model.digest"] == found["model.revision"] == "catalogue"
    assert found["federation.spare_attempts"] == found["privacy.unit"] == "default"
    assert set(found.values()) == {"--seed", "--set", "recipe", "catalogue", "default"}


def test_a_copied_recipe_is_the_same_and_whole(tmp_path: Path) -> None:
    for name in ("tcr-covid", "tcr-covid-dp"):
        folder = copy(name, tmp_path / name)
        copied, original = load_recipe(folder), load_recipe(name)
        assert copied.digest == original.digest
        assert copied.path == folder / "recipe.yaml"
        assert [path.name for path in folder.glob("*.yaml")] == ["recipe.yaml"]
        assert (folder / "SOURCE.md").is_file()
        split = copied.recipe.data.split
        assert split is not None
        assert all((folder / file).is_file() for file in (*split.train, *split.test))  # type: ignore[union-attr]


def test_nothing_is_copied_over_something_or_into_itself(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="there already"):
        copy("phenotype", tmp_path / "taken")
    folder = copy("phenotype", tmp_path / "mine")
    with pytest.raises(UsageError, match="within the recipe"):
        copy(folder, folder / "again")
    assert not (folder / "again").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "taken"]
