"""Base models whose weights are not here: what is known of them is what an import will find."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from plasmid.adapters.adapter import lora_modules
from plasmid.bases import catalogue, outline
from plasmid.bases.architectures import architecture
from plasmid.bases.catalogue import Described
from plasmid.bases.importer import import_folder
from plasmid.bases.outline import Outline, missing, planned_model, shapes_of
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel, check_pinned, ensure_model
from plasmid.core.errors import ModelError, UsageError
from plasmid.encoders.loading import load_encoder, load_language
from support.tiny.tiny_causal import tiny_causal
from support.tiny.tiny_models import tiny_amplify, tiny_esm

PUBLISHED = {
    # Their authors say 650 M, 3 B, 350 M, 150 M and 7.61 B, some with heads that are not kept.
    "esm2-650m": 649_400_320,
    "esm2-3b": 2_832_442_880,
    "amplify-350m": 353_982_720,
    "bioclinical-modernbert": 149_014_272,
    "qwen2.5-7b": 7_615_616_512,
}


def of(base: BaseModel, model_id: str = "described", **changes: object) -> Described:
    entry = base.entry
    return Described.model_validate(
        {
            "id": model_id,
            "title": "A described model",
            "licence": "MIT",
            "architecture": entry.architecture,
            "input": entry.input,
            "tasks": entry.tasks,
            "repo": "somebody/described",
            "config": {
                key: value for key, value in base.config.items() if key not in ("architectures", "dtype")
            },
            **changes,
        }
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder without models, and an empty folder of descriptions; shapes are made in this process."""
    folder = tmp_path / "descriptions"
    folder.mkdir()
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(catalogue, "DESCRIBED", folder)
    monkeypatch.setattr(outline, "_of_child", lambda name: shapes_of(catalogue.described(name)))  # type: ignore[arg-type]
    return folder


def describe(folder: Path, known: Described) -> Described:
    with (folder / f"{known.id}.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(known.model_dump(mode="json"), file)
    return known


def matrices(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if len(shape) == 2}


@pytest.mark.parametrize("kind", ["esm", "modernbert", "eurobert", "bert", "llama"])
def test_an_outline_has_the_tensors_that_an_import_has(kind: str, zoo: dict[str, BaseModel]) -> None:
    base = zoo[kind]
    unused = architecture(base.entry.architecture).unused
    held = {name: info.shape for name, info in base.header.items() if not name.startswith(unused)}
    shapes = shapes_of(of(base))
    assert matrices(shapes) == matrices(held)  # ESM's norms have older names in its checkpoints
    real = sum(
        value.numel() for name, value in load_encoder(base).named_parameters() if not name.startswith(unused)
    )
    assert sum(map(prod, shapes.values())) == real


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_an_outline_of_a_causal_model_has_them_too(kind: str, home: Path, tmp_path: Path) -> None:
    base = import_folder(tiny_causal(tmp_path / kind, kind), model_id=f"tiny-{kind}", head="causal")
    shapes = shapes_of(of(base))
    assert shapes == {name: base.header[name].shape for name in shapes}
    assert sum(map(prod, shapes.values())) == sum(value.numel() for value in load_language(base).parameters())


def test_the_models_of_the_catalogue_have_the_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_imported", dict)
    found = {known.id: sum(map(prod, shapes_of(known).values())) for known in catalogue.absent()}
    assert found == PUBLISHED
    assert {known.licence for known in catalogue.absent()} == {"MIT", "Apache-2.0"}


def test_a_child_process_tells_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    base = planned_model("amplify-350m", revision=None, digest=None)
    assert isinstance(base, Outline)
    assert (base.digest, base.header["layers.31.mlp.up_proj.weight"].shape) == ("", (2560, 960))
    lora = LoraSpec(rank=8, alpha=16, targets=["q_proj"], layers=2)
    assert [module.path for module in lora_modules(base, lora)] == [
        "layers.30.self_attn.q_proj",
        "layers.31.self_attn.q_proj",
    ]
    with pytest.raises(ModelError, match=r"no linear layer q_prj \(did you mean 'q_proj'\?\)") as caught:
        lora_modules(base, lora.model_copy(update={"targets": ["q_prj"]}))
    assert caught.value.code == "model.target_unknown"


def test_a_described_model_is_planned_until_it_is_imported(
    home: Path, zoo: dict[str, BaseModel], tmp_path: Path
) -> None:
    known = describe(home, of(zoo["esm"]))
    assert [one.id for one in catalogue.absent()] == ["described"]
    planned = planned_model("described", revision=None, digest=None)
    assert "plasmid models import FOLDER --id described" in missing(planned)[0]
    with pytest.raises(ModelError) as caught:
        ensure_model("described")
    assert (caught.value.code, "somebody/described" in caught.value.message) == ("model.not_imported", True)
    with pytest.raises(ModelError) as caught:
        check_pinned("described", None)
    assert caught.value.code == "model.unpinned"
    with pytest.raises(ModelError) as caught:  # whoever pins it has seen weights: no outline stands for them
        planned_model("described", revision="1", digest="0" * 64)
    assert caught.value.code == "model.not_imported"
    base = import_folder(tiny_esm(tmp_path / "esm"), model_id="described")
    assert (base.entry.title, base.entry.licence, catalogue.absent()) == (known.title, "MIT", [])
    found = planned_model("described", revision=None, digest=None)
    assert (found.digest, missing(found)) == (base.digest, ())
    lora = LoraSpec(rank=2, alpha=4, targets=["all-linear"])
    assert lora_modules(planned, lora) == lora_modules(found, lora)


def test_amplify_is_described_as_what_it_becomes(
    home: Path, zoo: dict[str, BaseModel], tmp_path: Path
) -> None:
    describe(home, of(zoo["eurobert"]))
    base = import_folder(tiny_amplify(tmp_path / "amplify"), model_id="described")
    assert base.entry.architecture == "eurobert"


def _others(folder: Path, base: BaseModel) -> Iterator[tuple[Described, str]]:
    deeper = dict(base.config) | {"num_hidden_layers": 4}
    yield of(base, config=deeper), "encoder.layer.3.attention.output.dense.weight"
    yield of(base, config=dict(base.config) | {"num_hidden_layers": 2}), "encoder.layer.2."
    yield (
        of(base, config=dict(base.config) | {"intermediate_size": 64}),
        "encoder.layer.0.intermediate.dense.weight",
    )
    yield of(base, architecture="roberta"), "its architecture, esm"


def test_other_weights_are_not_taken_for_a_described_model(
    home: Path, zoo: dict[str, BaseModel], tmp_path: Path
) -> None:
    source = tiny_esm(tmp_path / "esm")
    for known, told in _others(home, zoo["esm"]):
        describe(home, known)
        with pytest.raises(ModelError) as caught:
            import_folder(source, model_id="described")
        assert (caught.value.code, told in caught.value.message) == ("model.not_described", True)
    describe(home, of(zoo["esm"]))
    with pytest.raises(UsageError, match="otherwise than --input, --licence, --causal says") as usage:
        import_folder(source, model_id="described", kind="text", licence="GPL-3.0", head="causal")
    assert usage.value.code == "usage.model_id"


def test_settings_that_make_no_model_are_told(home: Path, zoo: dict[str, BaseModel]) -> None:
    with pytest.raises(ModelError, match="no EsmModel can be made of the settings of described") as caught:
        shapes_of(of(zoo["esm"], config={"model_type": "esm", "hidden_size": "many"}))
    assert caught.value.code == "model.refused"
