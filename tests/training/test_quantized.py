"""Training over a base in 4 bits: what is packed, the same mechanism under privacy, and what is released."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from plasmid.adapters.adapter import Vector, initial_state, packed_layers
from plasmid.adapters.artifact import read_adapter
from plasmid.adapters.export import export_merged
from plasmid.adapters.merge import check_alike
from plasmid.adapters.predict import Predictor
from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_floats, write_floats
from plasmid.computations import fedsb
from plasmid.core.errors import ModelError, RecipeError
from plasmid.encoders.encoder import AdaptedModel
from plasmid.encoders.loading import load_encoder
from plasmid.encoders.mixed import MixedModel
from plasmid.gateway.explanation import _runs
from plasmid.lora.layer import LoraLinear
from plasmid.lora.packed import PackedLinear
from plasmid.planning.footprint import gpu_bytes, weight_bytes
from plasmid.prediction.evaluation import write_release
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.evaluation import evaluation_from_recipe
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from support.tiny.tiny_language import language_bases, language_recipe, language_table
from support.tiny.tiny_models import tiny_bert
from support.tiny.tiny_task import tiny_recipe, tiny_table

ALL = UnitSampling("record", clip=0.5, rate=1.0, expected=40.0, noise_multiplier=0.0)


def over_nf4(recipe: Recipe, **sections: Any) -> Recipe:
    values = recipe.model_dump(mode="json")
    values["model"]["quantization"] = "nf4"
    return Recipe.model_validate(values | sections)


def unpacked(base: BaseModel, folder: Path) -> BaseModel:
    """Import a base whose published weights are what *base* has once they were packed: nothing to pack."""
    shutil.copytree(base.path, folder)
    tensors = read_floats(base.path / "model.safetensors")
    for layer in packed_layers(base):
        name = f"{layer.path}.weight"
        parts = [torch.from_numpy(tensors[name].reshape(-1))]
        tensors[name] = PackedLinear.of(parts, (layer.outputs, layer.inputs)).weight.numpy()
    write_floats(folder / "model.safetensors", tensors)
    (folder / "plasmid.json").unlink()
    head = base.entry.own_head
    return import_folder(folder, model_id=f"{base.id}-unpacked", head=head, template=base.entry.chat_template)


def started(engine: Engine) -> Vector:
    """Return a state at which no gradient is zero by construction."""
    noise = np.random.default_rng(1).standard_normal(engine.schema.size).astype(np.float32)
    return initial_state(engine.schema, 0) + np.float32(0.2) * noise


def test_layers_are_packed_and_nothing_else(zoo: dict[str, BaseModel]) -> None:
    for base in zoo.values():
        recipe = tiny_recipe(base)
        lora = recipe.adapter.lora.model_copy(update={"targets": ["all-linear"], "layers": 1})
        model = AdaptedModel.load(base, lora, recipe.head(), quantization="nf4")
        linear = {
            path: one.frozen if isinstance(one, LoraLinear) else one
            for path, one in model.encoder.named_modules()
            if isinstance(one, nn.Linear | LoraLinear) and not path.endswith(".frozen")
        }
        layers = {layer.path for layer in packed_layers(base)}
        assert {path for path, one in linear.items() if isinstance(one, PackedLinear)} == layers
        published = read_floats(base.path / "model.safetensors")
        whole = {name.removesuffix(".frozen.bias") for name, _ in model.encoder.named_parameters()}
        assert not {f"{path}.weight" for path in layers} & whole
        for path in layers:
            error = np.abs(linear[path].weight.numpy() - published[f"{path}.weight"]).mean()
            assert error < 0.12 * np.abs(published[f"{path}.weight"]).mean()


def test_what_is_planned_is_what_is_held(zoo: dict[str, BaseModel]) -> None:
    for name in zoo.keys() - {"esm"}:  # in whose file are frequencies, which are computed
        base = zoo[name]
        model = load_encoder(base, quantization="nf4")
        held = sum(one.nbytes for one in model.parameters())
        for layer in packed_layers(base):
            packed = model.get_submodule(layer.path)
            held += packed.codes.nbytes + packed.scales.nbytes
        assert weight_bytes(base, "nf4") == held
        plain = sum(one.nbytes for one in load_encoder(base).parameters())
        assert weight_bytes(base, "none") == plain > 2 * held
    base = zoo["bert"]
    recipe = tiny_recipe(base)
    saved = gpu_bytes(recipe, base, 1096) - gpu_bytes(over_nf4(recipe), base, 1096)
    assert saved == weight_bytes(base, "none") - weight_bytes(base, "nf4") - 6 * 48 * 32  # a layer unpacked


def test_a_matrix_that_is_no_whole_blocks_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    folder = tiny_bert(tmp_path / "odd")
    sizes: dict[str, Any] = {"hidden_size": 12, "intermediate_size": 16, "num_attention_heads": 4}
    given = json.loads((folder / "config.json").read_text()) | sizes
    BertForMaskedLM(BertConfig(**given)).save_pretrained(folder)
    base = import_folder(folder, model_id="odd")
    assert {layer.path.rpartition("layer.")[2][2:] for layer in packed_layers(base)} == {
        "intermediate.dense",
        "output.dense",
    }
    model = AdaptedModel.load(
        base, tiny_recipe(base).adapter.lora, tiny_recipe(base).head(), quantization="nf4"
    )
    query = model.encoder.get_submodule("encoder.layer.0.attention.self.query")
    assert type(query) is nn.Linear


@pytest.mark.parametrize("kind", ["bert", "esm", "modernbert"])
def test_clipped_sums_are_those_of_single_rows_over_the_same_weights(
    kind: str, zoo: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_home: None
) -> None:
    base, table = zoo[kind], tiny_table(40)
    targets = {"modernbert": ["Wqkv"]}.get(kind, ["query", "value"])
    recipe = tiny_recipe(base)
    adapter = recipe.adapter.model_dump(mode="json")
    adapter["lora"]["targets"] = targets
    recipe = over_nf4(recipe, adapter=adapter)
    engine = Engine(recipe, base, table, device="cpu")
    state = started(engine)
    twin = AdaptedModel.load(unpacked(base, tmp_path / "twin"), recipe.adapter.lora, recipe.head())
    twin.set_state(state)
    rows = twin.encode(table.columns, input_column="sequence", max_length=32, label_column="label")
    wanted = np.zeros(engine.schema.size)
    for row in range(40):
        twin.zero_grad()
        batch = rows.batch([row])
        (-twin(batch).log_softmax(-1)[0, batch.labels].sum()).backward()
        gradient = twin.flat(one.grad for one in twin.trained().values())  # type: ignore[misc]
        wanted += gradient * min(1.0, 0.5 / float(np.linalg.norm(gradient)))
    assert 2.0 < np.linalg.norm(wanted) <= 40 * 0.5, "the clip binds"
    for checkpointing in (False, True):
        engine = Engine(recipe, base, table, device="cpu", checkpointing=checkpointing)
        found = engine.gradient_sum(state, sampling=ALL)
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)
    plain = Engine(
        tiny_recipe(base).model_copy(update={"adapter": recipe.adapter}), base, table, device="cpu"
    )
    apart = np.linalg.norm(plain.gradient_sum(state, sampling=ALL) - wanted)
    assert apart > 1e-2 * np.linalg.norm(wanted), "the published weights are others"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("causal", "llama"), ("causal", "qwen2"), ("causal", "gpt_neox"), ("masked-lm", "esm")],
)
def test_a_language_model_trains_as_one_with_those_weights_published(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    base = language_bases(tmp_path, [(kind, name)])[kind, name]
    twin = unpacked(base, tmp_path / "twin")
    table = language_table(kind, 16)
    states = []
    packed, plain = over_nf4(language_recipe(base, kind)), language_recipe(twin, kind)
    for one, recipe in ((base, packed), (twin, plain)):
        engine = Engine(recipe, one, table, device="cpu", checkpointing=one is base)
        states.append(engine.train(initial_state(engine.schema, 0), steps=3, seed=0))
    assert np.abs(states[0] - initial_state(engine.schema, 0)).max() > 1e-3
    np.testing.assert_allclose(states[0], states[1], atol=2e-5)


def test_frames_of_fed_sb_are_of_the_published_weights(tiny: dict[str, BaseModel]) -> None:
    base = tiny["bert"]
    recipe = over_nf4(tiny_recipe(base), computation="fedsb")
    frames = fedsb.frames(recipe, base)
    plain = fedsb.frames(
        Recipe.model_validate(tiny_recipe(base).model_dump() | {"computation": "fedsb"}), base
    )
    assert all(np.array_equal(frames[name], plain[name]) for name in plain)
    engine = Engine(recipe, base, tiny_table(40), device="cpu", frames=frames)
    shape = fedsb.shape(recipe, base)
    state = fedsb.adapter(recipe, base, fedsb.initial(recipe, shape))
    assert np.abs(engine.train(state, steps=2, seed=0, learn=fedsb.learns(recipe, 1)) - state).max() > 1e-3


# -- the document, and what is released ------------------------------------------------------------


def test_a_document_without_it_is_what_it_was() -> None:
    plain = load_recipe("tcr-covid", overrides={"model.quantization": "none"})
    assert "quantization" not in plain.document["model"]
    assert plain.digest == load_recipe("tcr-covid").digest
    packed = load_recipe("tcr-covid", overrides={"model.quantization": "nf4"})
    assert packed.document["model"]["quantization"] == "nf4"
    assert packed.origins["model.quantization"] == "--set"
    assert packed.digest != plain.digest
    assert recipe_digest(packed.document, packed.recipe.computation) == packed.digest
    told = [{fact.name: fact.value for fact in _runs(one.parsed)} for one in (packed, plain)]
    assert told[0].pop("frozen weights") == "held in 4 bits (nf4) while factors learn"
    assert told[0] == told[1]
    for wrong in ("nf3", "int8", "null", "{nf4: 1}", "bitsandbytes"):
        with pytest.raises(RecipeError, match=r"model\.quantization"):
            load_recipe("tcr-covid", overrides={"model.quantization": wrong})


def test_what_was_trained_over_it_is_answered_over_it_and_says_so(
    tiny: dict[str, BaseModel], tmp_path: Path, at_home: None
) -> None:
    base, columns = tiny["bert"], tiny_table(64, 3).columns
    recipe = over_nf4(tiny_recipe(base))
    engine = Engine(recipe, base, tiny_table(), device="cpu")
    state = started(engine)
    for name, one in (("packed", recipe), ("plain", tiny_recipe(base))):
        write_release(tmp_path / name, one, base, state, provenance={"rounds": 0})
    told = {
        name: json.loads((tmp_path / name / "head.json").read_text())["base"] for name in ("packed", "plain")
    }
    assert (told["packed"].get("quantization"), told["plain"].get("quantization", "absent")) == (
        "nf4",
        "absent",
    )
    found = {
        name: Predictor.load(tmp_path / name, device="cpu").predict(columns).answers.values for name in told
    }
    np.testing.assert_allclose(found["packed"], engine.predict(state, columns).values, atol=1e-5)
    apart = np.abs(found["packed"] - found["plain"])
    assert apart.mean() > 1e-4
    assert "over a copy of the base's weights in 4 bits" in (tmp_path / "packed" / "README.md").read_text()
    assert "4 bits" not in (tmp_path / "plain" / "README.md").read_text()
    # a server computes with the published weights, whichever of the two it is
    served = MixedModel.load(base)
    packed, plain = (read_adapter(tmp_path / name) for name in ("packed", "plain"))
    held = [served.hold(one) for one in (packed, plain)]
    assert all(
        torch.equal(held[0].factors[path].down, held[1].factors[path].down) for path in held[1].factors
    )
    for one, name in ((packed, "packed"), (plain, "plain")):
        export_merged(one, base, tmp_path / "merged" / name, licence="mit", name="merged")
    cards = [(tmp_path / "merged" / name / "README.md").read_text() for name in ("packed", "plain")]
    assert ["Merged here are the published weights" in text for text in cards] == [True, False]
    weights = [
        (tmp_path / "merged" / name / "model.safetensors").read_bytes() for name in ("packed", "plain")
    ]
    assert weights[0] == weights[1]
    with pytest.raises(ModelError, match="quantization none, not nf4") as caught:
        check_alike([packed, plain])
    assert caught.value.code == "model.merge_mismatch"
    with pytest.raises(RecipeError, match="trained with quantization none, not nf4"):
        evaluation_from_recipe(
            recipe, lora=recipe.adapter.lora, head=recipe.head(), base=base.digest, given="0" * 64, rows="all"
        )
