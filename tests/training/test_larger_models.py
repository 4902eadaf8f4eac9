"""The architectures of the catalogue's larger models, at test size: described, imported, trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from plasmid.adapters.adapter import adapter_schema, initial_state
from plasmid.bases import catalogue
from plasmid.bases.importer import import_folder
from plasmid.bases.outline import Outline, planned_model, shapes_of
from plasmid.recipes.load import load_recipe
from plasmid.worker.engine import Engine
from support.tiny.tiny_causal import tiny_causal
from support.tiny.tiny_language import language_document, language_table
from support.tiny.tiny_models import tiny_amplify, tiny_esm, tiny_modernbert
from support.tiny.tiny_task import tiny_recipe, tiny_table

MADE = {"esm": tiny_esm, "modernbert": tiny_modernbert, "eurobert": tiny_amplify}
TARGETS = {
    "esm": ["query", "value"],
    "modernbert": ["attn.Wqkv"],
    "eurobert": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj"],
}


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_what_was_planned_without_weights_is_what_then_trains(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(catalogue, "DESCRIBED", tmp_path / "described")
    (tmp_path / "described").mkdir()
    monkeypatch.setattr(
        "plasmid.bases.outline._of_child",
        lambda name: shapes_of(catalogue.described(name)),  # type: ignore[arg-type]
    )
    causal = kind == "qwen2"
    source = tiny_causal(tmp_path / "source", kind) if causal else MADE[kind](tmp_path / "source")
    first = import_folder(source, model_id="first", head="causal" if causal else "none")
    settings = {key: value for key, value in first.config.items() if key not in ("architectures", "dtype")}
    known = first.entry.model_dump(mode="json", include={"architecture", "tasks", "input"}) | {
        "id": "larger",
        "title": "Larger",
        "licence": "MIT",
        "repo": "somebody/larger",
        "config": settings,
        "chat_template": "chatml" if causal else None,
    }
    with (tmp_path / "described" / "larger.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(known, file)
    document = language_document(first, "causal", steps=60) if causal else None
    document = document or tiny_recipe(first, steps=60, lora_lr=1e-2).model_dump(mode="json")
    document["model"] = {"base": "larger"}
    document["adapter"]["lora"] |= {"targets": TARGETS[kind], "layers": None}
    with (tmp_path / "recipe.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(document, file)

    planned = load_recipe(tmp_path / "recipe.yaml").recipe
    outlined = planned_model("larger", revision=None, digest=None)
    assert (isinstance(outlined, Outline), planned.model.digest) == (True, None)

    base = import_folder(source, model_id="larger")
    recipe = load_recipe(tmp_path / "recipe.yaml").recipe
    assert recipe.model.digest == base.digest
    rows, test = (
        (language_table("causal", 48), language_table("causal", 24, 1))
        if causal
        else (tiny_table(), tiny_table(60, 1))
    )
    engine = Engine(recipe, base, rows)
    start = initial_state(engine.schema, 0)
    trained = engine.train(start, steps=60, seed=0)
    before, after = (engine.score(state, test.columns) for state in (start, trained))
    assert engine.schema == adapter_schema(outlined, recipe.adapter.lora, recipe.head())
    assert before < 0.7
    assert after > (0.7 if causal else 0.9)
