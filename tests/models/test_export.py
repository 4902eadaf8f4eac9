"""Exported models give the adapter's probabilities with stock libraries alone."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plasmid.adapters.adapter import adapter_schema
from plasmid.adapters.artifact import Adapter
from plasmid.adapters.export import LINEAR, code, export_merged
from plasmid.adapters.files import BaseRef, HeadFile
from plasmid.adapters.predict import predict
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_floats
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import NumberCovariate

TEXTS = ["CASSYGQGPYGYTF", "CAS", "W", "CASSLLLLAQYFCASSLLLLAQYF"]
LORA = LoraSpec(rank=4, alpha=8.0, targets=["all-linear"], layers=2)


def _adapter(base: BaseModel, head: ClassificationHead, temperature: float | None = None) -> Adapter:
    schema = adapter_schema(base, LORA, head)
    state = np.random.default_rng(5).normal(0, 0.1, schema.size).astype(np.float32)
    about = HeadFile(
        input="cdr3",
        kind="protein",
        spaced=base.entry.spaced,
        max_length=20,
        label="binds",
        metric="auc",
        columns={},
        temperature=temperature,
        head=head,
        lora=LORA,
        base=BaseRef(id=base.id, revision=base.revision, digest=base.digest),
    )
    return Adapter(schema.unflatten(state), about, {})


def _run(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> np.ndarray:
    """Run the card's lines in *folder*, *given* put in place of what they make up."""
    monkeypatch.chdir(folder)
    space: dict[str, Any] = {}
    for line in block.splitlines():
        exec(line, space)
        name = line.split(" = ")[0]
        if name in given:
            space[name] = given[name]
    found: np.ndarray = space["probabilities"].numpy()
    return found


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("kind", ["bert", "esm", "roberta", "modernbert", "llama"])
def test_the_card_s_lines_give_the_adapter_s_probabilities(
    kind: str, zoo: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = zoo[kind]
    adapter = _adapter(base, ClassificationHead(labels=["no", "yes", "so"]), temperature=1.5)
    done = export_merged(adapter, base, tmp_path / "out", licence="mit", name="Tiny")
    assert (done.auto_class is not None) == (kind in LINEAR)
    wanted = predict(adapter, {"cdr3": TEXTS})
    assert wanted.std() > 0.05
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    block = card.split("```python\n")[1].split("\n```")[0]
    assert block == code(adapter, LINEAR.get(kind))
    assert len(block.splitlines()) <= 10
    assert ("AutoModelForTokenClassification" in block) == (kind in LINEAR)
    assert np.abs(_run(block, tmp_path / "out", monkeypatch, texts=TEXTS) - wanted).max() < 1e-5


@pytest.mark.usefixtures("at_home")
def test_covariates_are_the_head_s_beside_the_model(
    zoo: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = ClassificationHead(labels=["no", "yes"], covariates=[NumberCovariate(name="age", bounds=(0, 100))])
    adapter = _adapter(zoo["bert"], head)
    export_merged(adapter, zoo["bert"], tmp_path / "out", licence="mit", name="Tiny")
    ages = [30.0, 80.0, 0.0, 55.0]
    wanted = predict(adapter, {"cdr3": TEXTS, "age": ages})
    slots = torch.tensor([[age / 100, 0.0] for age in ages])
    block = code(adapter, LINEAR["bert"])
    assert np.abs(_run(block, tmp_path / "out", monkeypatch, texts=TEXTS, slots=slots) - wanted).max() < 1e-5


@pytest.mark.usefixtures("at_home")
def test_a_stock_pipeline_loads_it_with_the_labels(zoo: dict[str, BaseModel], tmp_path: Path) -> None:
    from transformers import pipeline

    adapter = _adapter(zoo["esm"], ClassificationHead(labels=["no", "yes"]))
    export_merged(adapter, zoo["esm"], tmp_path / "out", licence="mit", name="Tiny")
    run = pipeline("token-classification", model=str(tmp_path / "out"), ignore_labels=[])
    found = run("CASSY")
    assert {one["entity"] for one in found} <= {"no", "yes"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}
    assert list(read_floats(tmp_path / "out" / "head.safetensors")["weight"].shape) == [2, 32]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("kind", ["bert", "esm", "llama"])
def test_sentence_transformers_gives_the_mean_that_the_head_reads(
    kind: str, zoo: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stock = pytest.importorskip("sentence_transformers")
    adapter = _adapter(zoo[kind], ClassificationHead(labels=["no", "yes"]))
    export_merged(adapter, zoo[kind], tmp_path / "out", licence="mit", name="Tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = stock.SentenceTransformer(str(tmp_path / "out"), device="cpu")
        mean = model.encode(TEXTS)
    head = read_floats(tmp_path / "out" / "head.safetensors")
    logits = torch.from_numpy(mean @ head["weight"].T + head["bias"])
    assert np.abs(logits.softmax(1).numpy() - predict(adapter, {"cdr3": TEXTS})).max() < 1e-5
