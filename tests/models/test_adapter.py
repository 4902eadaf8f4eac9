"""Schema and flat vector."""

from __future__ import annotations

import re

import numpy as np
import pytest

from plasmid.adapters.adapter import (
    AdapterSchema,
    TensorSpec,
    adapter_schema,
    initial_state,
    lora_modules,
    target_regex,
)
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_header
from plasmid.core.errors import ModelError
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import CategoryCovariate

HEAD = ClassificationHead(
    labels=["0", "1"], covariates=[CategoryCovariate(name="gene", vocabulary=["a", "b"])]
)
LORA = LoraSpec(rank=4, alpha=8.0, targets=["query", "value"], layers=2)


def test_schema_is_in_the_documented_order(tiny: dict[str, BaseModel]) -> None:
    schema = adapter_schema(tiny["bert"], LORA, HEAD)
    modules = [
        f"encoder.layer.{layer}.attention.self.{part}" for layer in (1, 2) for part in ("query", "value")
    ]
    factors = [
        {
            "name": f"base_model.model.{module}.lora_{factor}.weight",
            "shape": [4, 32] if factor == "A" else [32, 4],
        }
        for module in modules
        for factor in "AB"
    ]
    head = [("head.weight", [2, 32]), ("head.covariates", [2, 3]), ("head.bias", [2])]
    assert schema.as_json() == factors + [{"name": name, "shape": shape} for name, shape in head]
    assert schema.size == 4 * 2 * 4 * 32 + 64 + 6 + 2
    bare = adapter_schema(tiny["bert"], LORA, ClassificationHead(labels=["0", "1"]))
    assert [tensor.name for tensor in bare.tensors[-2:]] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("kind", ["bert", "esm"])
def test_all_linear_means_the_linear_layers_of_the_transformer(kind: str, tiny: dict[str, BaseModel]) -> None:
    base = tiny[kind]
    modules = lora_modules(base, LoraSpec(rank=1, alpha=1.0, targets=["all-linear"]))
    assert len(modules) == 3 * 6
    assert [module.path for module in modules] == sorted(module.path for module in modules)
    one = lora_modules(base, LoraSpec(rank=1, alpha=1.0, targets=["intermediate.dense"], layers=1))
    assert [(module.path, module.inputs, module.outputs) for module in one] == [
        ("encoder.layer.2.intermediate.dense", 32, 48)
    ]


def test_the_regex_matches_exactly_the_modules(tiny: dict[str, BaseModel]) -> None:
    base = tiny["bert"]
    modules = lora_modules(base, LoraSpec(rank=1, alpha=1.0, targets=["dense"], layers=2))
    pattern = re.compile(target_regex(base, modules))
    paths = {name.rpartition(".")[0] for name in read_header(base.path / "model.safetensors")} | {
        "pooler.dense"
    }
    assert {path for path in paths if pattern.fullmatch(path)} == {module.path for module in modules}
    assert len(modules) == 6


def test_what_the_model_has_not(tiny: dict[str, BaseModel]) -> None:
    with pytest.raises(ModelError) as caught:
        adapter_schema(tiny["bert"], LoraSpec(rank=4, alpha=8.0, targets=["query", "q_proj", "uery"]), HEAD)
    assert caught.value.code == "model.target_unknown"
    assert "q_proj, uery" in caught.value.message
    assert "attention.self.query" in caught.value.hint
    with pytest.raises(ModelError) as caught:
        adapter_schema(tiny["bert"], LORA.model_copy(update={"layers": 4}), HEAD)
    assert caught.value.code == "model.layers_unknown"


def test_flat_and_back_is_exact(tiny: dict[str, BaseModel]) -> None:
    schema = adapter_schema(tiny["esm"], LORA, HEAD)
    vector = np.random.default_rng(0).standard_normal(schema.size).astype(np.float32)
    tensors = schema.unflatten(vector)
    assert np.array_equal(schema.flatten(dict(reversed(tensors.items()))), vector)
    tensors["head.bias"][:] = 0
    assert vector[-1] != 0, "unflatten copies"


def test_all_misfits_are_told_at_once() -> None:
    schema = AdapterSchema((TensorSpec("a", (2,)), TensorSpec("b", (1, 2)), TensorSpec("c", (1,))))
    with pytest.raises(ModelError) as caught:
        schema.flatten({"a": np.zeros(2), "b": np.zeros((2, 1), np.float32), "d": np.zeros(1, np.float32)})
    assert caught.value.code == "model.adapter_mismatch"
    for what in (
        "a is float64 [2]",
        "b is float32 [2, 1], not float32 [1, 2]",
        "c is missing",
        "d is unknown",
    ):
        assert what in caught.value.message
    for wrong in (np.zeros(4, np.float32), np.zeros(5), np.zeros((1, 5), np.float32)):
        with pytest.raises(ModelError, match=r"float32 \[5\]"):
            schema.unflatten(wrong)


def test_initial_state() -> None:
    schema = AdapterSchema((TensorSpec("x.lora_A.weight", (2, 16)), TensorSpec("x.lora_B.weight", (4, 2))))
    state = initial_state(schema, 7)
    first, rest = state[:32], state[32:]
    assert not rest.any()
    assert np.abs(first).max() <= 0.25
    assert np.abs(first).std() > 0.05
    np.testing.assert_allclose(
        first[:3], [-0.015591256320476532, -0.036927081644535065, -0.06850914657115936], atol=1e-7
    )
    assert np.array_equal(state, initial_state(schema, 7))
    assert not np.array_equal(state, initial_state(schema, 8))
