"""A recipe names a base that keeps the head which its task needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.core.errors import RecipeError
from plasmid.recipes import catalogue
from plasmid.recipes.load import load_recipe


def test_a_causal_base_is_refused_where_the_recipe_names_it(tmp_path: Path) -> None:
    source = catalogue.get("phenotype")
    text = source.read_text()
    assert text.count("base: minilm") == 1
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("base: minilm", "base: smollm2"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    line = next(number for number, one in enumerate(path.read_text().splitlines(), 1) if "smollm2" in one)
    told = "smollm2 is a causal language model; task.kind classification needs an encoder"
    assert f"{path.name}:{line}: model.base: {told}" in caught.value.message
    for name, base, told in (
        (
            "phenotype-answers",
            "minilm",
            "minilm is an encoder; task.kind causal needs a causal language model",
        ),
        (
            "tcr-covid-masked",
            "antiberty",
            "antiberty is an encoder; task.kind masked-lm needs a language model",
        ),
    ):
        with pytest.raises(RecipeError) as caught:
            load_recipe(name, overrides={"model.base": base})
        assert f"model.base: {told}" in caught.value.message
