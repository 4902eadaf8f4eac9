"""The adapted model against plain arithmetic on the stock encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, ModelError
from plasmid.encoders.batches import Rows
from plasmid.encoders.encoder import AdaptedModel
from plasmid.encoders.loading import load_encoder
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import CategoryCovariate, NumberCovariate

HEAD = ClassificationHead(
    labels=["no", "yes", "maybe"],
    covariates=[
        CategoryCovariate(name="gene", vocabulary=["a", "b"]),
        NumberCovariate(name="age", bounds=(0, 90)),
    ],
)
COLUMNS = {
    "cdr3": ["CASSYGQGPYGYTF", "CAS", "CASSFMGQGYEQYFCASSFMGQGYEQYF", "W", "CASSLLLLAQYF"] * 4,
    "gene": ["a", None, "zz", "b", "a"] * 4,
    "age": [30.0, None, 99.0, 1.0, 90.0] * 4,
    "label": ["no", "yes", "maybe", "yes", "no"] * 4,
}


TARGETS = {
    "bert": ["query", "value", "output.dense"],
    "esm": ["query", "value", "output.dense"],
    "roberta": ["query", "value", "output.dense"],
    "modernbert": ["Wqkv", "mlp.Wo"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "eurobert": ["q_proj", "v_proj", "down_proj"],
}
KINDS = sorted(TARGETS)


def _model(base: BaseModel, layers: int | None, head: ClassificationHead = HEAD) -> AdaptedModel:
    lora = LoraSpec(rank=4, alpha=8.0, targets=TARGETS[base.entry.architecture], layers=layers)
    model = AdaptedModel.load(base, lora, head)
    model.set_state(_state(model))
    return model


def _state(model: AdaptedModel) -> Vector:
    noise = np.random.default_rng(1).standard_normal(model.schema.size).astype(np.float32)
    return initial_state(model.schema, 0) + np.float32(0.3) * noise


def _rows(model: AdaptedModel) -> Rows:
    return model.encode(COLUMNS, input_column="cdr3", max_length=40, label_column="label")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [None, 1, 2, 3])
def test_state_round_trip_is_exact(kind: str, layers: int | None, zoo: dict[str, BaseModel]) -> None:
    model = _model(zoo[kind], layers)
    state = _state(model)
    assert np.array_equal(model.state(), state)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == model.schema.size
    sizes = {name: sum(p.numel() for p in group) for name, group in model.groups().items()}
    assert sizes == {"lora": model.schema.size - 3 * 32 - 3 - 15, "head": 3 * 32 + 3, "covariates": 15}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_cached_and_whole_runs_agree(kind: str, layers: int, zoo: dict[str, BaseModel]) -> None:
    model = _model(zoo[kind], layers)
    rows = _rows(model)
    cached = model.cached(rows)
    assert cached.hidden is not None
    assert cached.hidden.shape == (len(rows.ids), 32)
    for chosen in ([0, 1, 2, 3, 4], [3], [1, 2], list(range(20))):
        whole, fast = model(rows.batch(chosen)), model(cached.batch(chosen))
        torch.testing.assert_close(whole, fast, atol=1e-5, rtol=0)
        for logits in (whole, fast):
            logits.square().sum().backward()
        for parameter in model.groups()["lora"]:
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
    assert whole.std() > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_documented_formula(kind: str, zoo: dict[str, BaseModel]) -> None:
    """Alone, unpadded, with B A added to the weights by hand: nothing of PEFT, batching or caching."""
    model = _model(zoo[kind], 2)
    tensors = model.schema.unflatten(_state(model))
    plain = load_encoder(zoo[kind])
    with torch.no_grad():
        for name, down in tensors.items():
            if name.endswith(".lora_A.weight"):
                path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                up = tensors[name.replace("lora_A", "lora_B")]
                plain.get_submodule(path).weight += torch.from_numpy(8.0 / 4 * up @ down)
    rows = _rows(model)
    slots = [[1, 0, 0, 30 / 90, 0], [0, 0, 0, 0, 1], [0, 0, 1, 1, 0], [0, 1, 0, 1 / 90, 0], [1, 0, 0, 1, 0]]
    expected = []
    for row in range(5):
        ids = rows.ids[int(rows.starts[row]) : int(rows.starts[row + 1])][None]
        with torch.no_grad():
            hidden = plain(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
        pooled = hidden[1:].mean(0) if kind == "llama" else hidden[1:-1].mean(0)
        covariates = np.asarray(slots[row], np.float32)
        expected.append(
            tensors["head.weight"] @ pooled + tensors["head.covariates"] @ covariates + tensors["head.bias"]
        )
    np.testing.assert_allclose(model(rows.batch(range(5))).detach().numpy(), np.stack(expected), atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_batch(kind: str, zoo: dict[str, BaseModel]) -> None:
    model = _model(zoo[kind], 2)
    rows = _rows(model)
    together = model.answers(rows).values
    assert together.shape == (20, 3)
    assert np.array_equal(together[:5].argmax(1), together[5:10].argmax(1))
    alone = np.concatenate([model(rows.batch([row])).softmax(-1).detach().numpy() for row in range(5)])
    np.testing.assert_allclose(together[:5], alone, atol=1e-5)
    np.testing.assert_allclose(together, model.answers(model.cached(rows)).values, atol=1e-5)


def test_groups_cut_padding_and_keep_every_row(tiny: dict[str, BaseModel]) -> None:
    batch = _rows(_model(tiny["bert"], 2)).batch(range(20))
    groups = batch.groups()
    assert groups is not None
    assert sorted(torch.cat(groups).tolist()) == list(range(20))
    parts = [batch.part(group) for group in groups]
    assert [tuple(part.input_ids.shape) for part in parts] == [(16, 16), (4, 30)]
    assert sum(int(part.attention_mask.sum()) for part in parts) == int(batch.attention_mask.sum())
    assert batch.part(torch.tensor([1, 3])).groups() is None


def test_no_covariates(tiny: dict[str, BaseModel]) -> None:
    head = ClassificationHead(labels=["no", "yes", "maybe"])
    model = _model(tiny["bert"], 1, head)
    assert set(model.groups()) == {"lora", "head"}
    assert np.array_equal(model.state(), _state(model))
    assert model.answers(_rows(model)).values.shape == (20, 3)


def test_bad_input(tiny: dict[str, BaseModel]) -> None:
    model = _model(tiny["bert"], 1)
    with pytest.raises(ModelError) as caught:
        model.encode(COLUMNS, input_column="cdr3", max_length=65)
    assert caught.value.code == "model.too_long"
    wrong = COLUMNS | {"label": ["no"] * 19 + ["canary"]}
    with pytest.raises(DataError) as bad:
        model.encode(wrong, input_column="cdr3", max_length=40, label_column="label")
    assert bad.value.code == "data.label_unknown"
    assert "canary" not in str(bad.value)
    with pytest.raises(ModelError, match="needs float32"):
        model.set_state(np.zeros(3, np.float32))


def test_long_input_is_cut(tiny: dict[str, BaseModel]) -> None:
    rows = _model(tiny["esm"], 1).encode(COLUMNS, input_column="cdr3", max_length=6)
    assert rows.lengths.tolist() == [6, 5, 6, 3, 6] * 4


def test_positions_that_start_behind_the_padding_are_fewer(zoo: dict[str, BaseModel]) -> None:
    model = _model(zoo["roberta"], 1)
    assert model.encoder.config.max_position_embeddings == 66
    long = COLUMNS | {"cdr3": ["W" * 80] * 20}
    rows = model.encode(long, input_column="cdr3", max_length=64)
    assert rows.lengths.max() == 64
    assert torch.isfinite(model(rows.batch([0]))).all()
    with pytest.raises(ModelError) as caught:
        model.encode(long, input_column="cdr3", max_length=65)
    assert caught.value.code == "model.too_long"


@pytest.mark.parametrize("architecture", ["esm", "llama"])
def test_a_loaded_base_runs_no_kernel_of_a_hub(architecture: str, zoo: dict[str, BaseModel]) -> None:
    """Transformers replaces layers by compiled code that it downloads, unless told not to (since 5.25)."""
    assert load_encoder(zoo[architecture]).use_kernels is False
