"""What is known before a run: every problem and notice of a recipe, its base and its rows, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.planning.checks import findings
from plasmid.recipes.schema import Recipe
from support.tiny.tiny_task import tiny_recipe, tiny_table

pytestmark = pytest.mark.usefixtures("at_home")


def changed(base: BaseModel, **sections: dict[str, Any]) -> Recipe:
    values = tiny_recipe(base, batch=8).model_dump(mode="json")
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


def told(recipe: Recipe, tables: dict[str, Table], test: Table | None = None) -> list[tuple[str | None, str]]:
    """Return code (None of a notice) and words of each finding."""
    found = findings(recipe, tables, test, Path("nowhere"))
    return [(one.error and one.error.code, one.what) for one in found]


def one_class(rows: int = 10) -> Table:
    table = tiny_table(rows)
    return Table({**table.columns, "label": ["no"] * rows}, rows)


def test_a_sound_recipe_has_no_findings(tiny: dict[str, BaseModel]) -> None:
    tables = {name: tiny_table(seed=seed) for seed, name in enumerate("abc")}
    assert told(changed(tiny["bert"]), tables, tiny_table(seed=9)) == []


def test_all_that_does_not_fit_the_base_is_told_at_once(tiny: dict[str, BaseModel]) -> None:
    lora = {"rank": 40, "alpha": 8.0, "targets": ["querry", "value"], "layers": 9}
    found = told(changed(tiny["bert"], adapter={"lora": lora}), {})
    assert [code for code, _ in found] == ["model.target_unknown", "model.layers_unknown", "model.rank"]
    assert "querry (did you mean 'query'?)" in found[0][1]
    lora["rank"] = 33  # no layer has that either; which layers are meant is not known
    assert len(told(changed(tiny["bert"], adapter={"lora": lora}), {})) == 3
    assert len(told(changed(tiny["bert"], adapter={"lora": lora | {"rank": 32}}), {})) == 2
    lora |= {"targets": ["query"], "layers": 2, "rank": 40}
    ((code, what),) = told(changed(tiny["bert"], adapter={"lora": lora}), {})
    assert code == "model.rank"
    assert "40 is above the size of 2 layers, the smallest has 32" in what
    columns = tiny_recipe(tiny["bert"]).model_dump(mode="json")["data"]["columns"]
    columns["sequence"]["max_length"] = 100
    ((code, what),) = told(changed(tiny["bert"], data={"columns": columns}), {})
    assert (code, "102 tokens" in what, "positions for 64" in what) == ("model.too_long", True, True)
    sketch = changed(tiny["bert"]).model_dump(mode="json") | {"computation": "sketch"}
    sketch["adapter"]["sketch_width"] = 12
    found = told(Recipe.model_validate(sketch), {name: tiny_table() for name in "abcd"})
    assert [code for code, _ in found] == ["recipe.most_sites"]


def test_a_base_that_is_not_here_is_a_notice_and_nothing_is_fetched(tiny: dict[str, BaseModel]) -> None:
    values = changed(tiny["bert"]).model_dump(mode="json")
    values["model"] = {"base": "tiny-bert", "revision": "another", "digest": "0" * 64}
    ((code, what),) = told(Recipe.model_validate(values), {})
    assert code is None
    assert "not imported here" in what


def test_an_adapter_for_other_weights_is_a_problem(tiny: dict[str, BaseModel]) -> None:
    values = changed(tiny["bert"]).model_dump(mode="json")
    values["model"]["digest"] = "0" * 64
    assert [code for code, _ in told(Recipe.model_validate(values), {})] == ["model.digest_differs"]


def test_what_the_labels_do_not_allow_is_told(tiny: dict[str, BaseModel]) -> None:
    tables = {"a": one_class(), "b": one_class(), "c": tiny_table(6)}
    found = told(changed(tiny["bert"]), tables, one_class())
    assert [what for code, what in found if code is None] == [
        "a: all of its 10 rows have the same label; it teaches no difference",
        "b: all of its 10 rows have the same label; it teaches no difference",
        "c: 6 rows are fewer than training.batch 8; it has one batch",
        "label 'yes' is at c alone: what the adapter says of it comes from there",
    ]
    assert [code for code, _ in found if code] == ["data.one_class"]
    assert "the test has no auc" in found[-1][1]


def test_a_site_that_a_recipe_speaks_of_and_nobody_is_is_told(tiny: dict[str, BaseModel]) -> None:
    weights = {"by": "public", "sites": {"north": 2.0, "suoth": 1.0}}
    recipe = changed(tiny["bert"], federation={"weights": weights})
    found = told(recipe, {"north": tiny_table(seed=1), "south": tiny_table(seed=2)})
    why = "which is no site here; a run of these sites is refused"
    assert found == [(None, f"federation.weights names suoth (did you mean 'south'?), {why}")]


def test_inputs_that_are_read_in_part_are_counted(tiny: dict[str, BaseModel]) -> None:
    table = tiny_table(10)
    table.columns["sequence"][3] = "A" * 31
    found = told(changed(tiny["bert"]), {"a": table})
    assert (None, "a: 1 of 10 inputs take more than 32 tokens; their ends are cut") in found
