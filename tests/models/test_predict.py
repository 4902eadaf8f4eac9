"""Probabilities of one adapter, its factors folded into the weights of its base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plasmid.adapters.artifact import read_adapter
from plasmid.adapters.predict import Predictor, predict
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError
from plasmid.encoders.encoder import AdaptedModel
from support.tiny.tiny_adapter import tiny_adapter
from support.tiny.tiny_task import tiny_table

pytestmark = pytest.mark.usefixtures("at_home")


@pytest.mark.parametrize("kind", ["bert", "esm"])
def test_folded_weights_say_what_the_factors_beside_them_say(
    kind: str, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    adapter = read_adapter(tiny_adapter(tmp_path / "adapter", tiny[kind]))
    model = AdaptedModel.load(tiny[kind], adapter.about.lora, adapter.about.head)
    base_alone = model.state()
    model.set_state(adapter.on(tiny[kind])[1])
    columns = tiny_table(150, seed=3).columns
    rows = model.encode(columns, input_column="sequence", max_length=adapter.about.max_length)
    beside = model.answers(rows).values
    found = Predictor(adapter, device="cpu", batch_rows=32).predict(columns)
    np.testing.assert_allclose(found.answers.values, beside, atol=1e-5)
    assert found.cut == 0
    lora = adapter.tensors | {name: value * 0 for name, value in adapter.tensors.items() if "lora_B" in name}
    model.set_state(model.schema.flatten(lora))
    assert np.abs(model.answers(rows).values - beside).max() > 1e-3  # or nothing was folded
    assert base_alone.shape == model.state().shape


def test_rows_beyond_the_adapters_length_are_cut_and_counted(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder = tiny_adapter(tmp_path / "adapter", tiny["esm"])
    most = read_adapter(folder).about.max_length
    letters = [most - 3, most - 2, most - 1, most + 9, 4]  # and two special tokens
    columns = {"sequence": ["A" * count for count in letters], "gene": [None] * 5}
    found = Predictor.load(folder).predict(columns)
    assert found.cut == 2
    np.testing.assert_array_equal(found.answers.values[2], found.answers.values[3])
    np.testing.assert_allclose(found.answers.values[1], found.answers.values[2], atol=1e-6)


def test_logits_are_divided_by_the_temperature(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path / "adapter", tiny["esm"])
    columns = tiny_table(8).columns
    plain = predict(folder, columns)
    head = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps(head | {"temperature": 2.0}))
    logits = np.log(plain) / 2
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(predict(folder, columns), expected, atol=1e-6)


def test_an_adapter_of_another_base_is_refused_before_its_tensors_are_read(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder = tiny_adapter(tmp_path / "adapter", tiny["esm"])
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    head = json.loads((folder / "head.json").read_text())
    head["base"]["digest"] = "0" * 64
    (folder / "head.json").write_text(json.dumps(head))
    with pytest.raises(ModelError) as refused:
        Predictor.load(folder)
    assert refused.value.code == "model.digest_differs"
    assert "0" * 16 in refused.value.message
    assert tiny["esm"].digest[:16] in refused.value.message
