"""rsLoRA, alpha / sqrt(rank): every way from an adapter to its answers scales as stock PEFT does."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModel

from models.test_artifact import COLUMNS, HEADS, _write
from plasmid.adapters.artifact import read_adapter
from plasmid.adapters.export import _update
from plasmid.adapters.merge import merge
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError
from plasmid.encoders.encoder import AdaptedModel
from plasmid.encoders.mixed import MixedModel

PLAIN = LoraSpec(rank=4, alpha=8.0, targets=["query", "dense"], layers=2)
ROOT = PLAIN.model_copy(update={"rslora": True})


def test_the_scale_is_over_the_root_of_the_rank() -> None:
    assert (PLAIN.scale, ROOT.scale) == (2.0, 4.0)


@pytest.mark.parametrize("key", ["dora", "use_dora"])
def test_dora_is_refused_with_the_reason_and_what_comes_nearest(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LoraSpec.model_validate(PLAIN.model_dump() | {key: True})
    assert "follows from no sum of their tensors" in str(caught.value)
    assert "Use rslora: true with a larger rank" in str(caught.value)
    with pytest.raises(ValidationError, match="Extra inputs"):
        LoraSpec.model_validate(PLAIN.model_dump() | {key: False})


def test_engine_stock_peft_mixed_serving_and_merging_give_the_same_numbers(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    from peft import PeftModel

    base = tiny["bert"]
    state = _write(tmp_path / "a", base, HEADS["none"], lora=ROOT)
    adapter = read_adapter(tmp_path / "a")
    assert adapter.about.lora == ROOT
    name = next(iter(adapter.tensors)).removesuffix(".lora_A.weight")
    path = name.removeprefix("base_model.model.")
    model = AdaptedModel.load(base, ROOT, HEADS["none"])
    model.set_state(state)
    batch = model.encode(COLUMNS, input_column="cdr3", max_length=20).batch(np.arange(5))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        stock = PeftModel.from_pretrained(AutoModel.from_pretrained(base.path), tmp_path / "a").eval()
        hidden = stock(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        found = model.encoder(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state
        own = batch.attention_mask.bool()
        assert (found - hidden)[own].abs().max() < 1e-5
        layer = stock.get_submodule(name).get_delta_weight("default").numpy()
    update = _update(adapter, path)
    assert update is not None
    assert np.abs(update - layer).max() < 1e-5
    # what is held for mixed batches carries the scale in A
    held = MixedModel.load(base).hold(adapter).factors[path]
    assert np.abs((held.up.T @ held.down).numpy() - layer).max() < 1e-5
    # a merged child carries it in its factors, at a scale of 1
    child = merge([adapter, adapter], [0.5, 0.5], base, method="svd", rank=4)
    tensors = child.schema.unflatten(child.state)
    product = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    assert (child.lora.scale, child.lora.rslora) == (1.0, False)
    assert np.abs(product - layer).max() < 1e-5
    # the positive control: another scale is another update
    assert np.abs(layer).max() > 0.01


def test_a_folder_that_contradicts_itself_about_the_scale_is_refused(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    _write(tmp_path / "a", tiny["bert"], lora=ROOT)
    config = tmp_path / "a" / "adapter_config.json"
    text = config.read_text()
    for changed in (
        text.replace('"use_rslora": true', '"use_rslora": false'),
        text.replace('"bias"', '"use_dora": true, "bias"'),
    ):
        assert changed != text
        config.write_text(changed)
        with pytest.raises(ModelError) as caught:
            read_adapter(tmp_path / "a")
        assert caught.value.code == "model.adapter_invalid"
