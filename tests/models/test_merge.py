"""Merging adapters: the numbers of the child, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import adapter_schema
from plasmid.adapters.artifact import Adapter
from plasmid.adapters.files import BaseRef, HeadFile
from plasmid.adapters.merge import Merged, merge
from plasmid.adapters.merge_factors import METHODS, cut, weighted
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError, UsageError
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import NumberCovariate

HEAD = ClassificationHead(labels=["no", "yes"], covariates=[NumberCovariate(name="age", bounds=(10, 90))])


def _adapter(base: BaseModel, lora: LoraSpec, seed: int, **about: Any) -> Adapter:
    head = about.pop("head", HEAD)
    schema = adapter_schema(base, lora, head)
    state = np.random.default_rng(seed).normal(0, 0.3, schema.size).astype(np.float32)
    said: dict[str, Any] = {
        "input": "cdr3",
        "kind": "protein",
        "spaced": False,
        "max_length": 20,
        "label": "binds",
        "metric": "auc",
        "columns": {"cdr3": {"type": "protein"}},
    }
    ref = BaseRef(id=base.id, revision=base.revision, digest=base.digest)
    file = HeadFile(**(said | about), head=head, lora=lora, base=ref)
    return Adapter(schema.unflatten(state), file, {})


def _updates(base: BaseModel, tensors: Any, lora: LoraSpec) -> dict[str, np.ndarray]:
    found = {}
    for name, down in tensors.items():
        if name.endswith(".lora_A.weight"):
            up = tensors[name.replace("lora_A", "lora_B")]
            found[name] = lora.alpha / lora.rank * up.astype(np.float64) @ down
    return found


def _child(base: BaseModel, merged: Merged) -> dict[str, np.ndarray]:
    return _updates(base, merged.schema.unflatten(merged.state), merged.lora)


@pytest.fixture
def base(tiny: dict[str, BaseModel]) -> BaseModel:
    return tiny["bert"]


FIRST = LoraSpec(rank=4, alpha=8.0, targets=["query", "value"], layers=2)
SECOND = LoraSpec(rank=2, alpha=2.0, targets=["value", "output.dense"])


def _wanted(base: BaseModel, one: Adapter, other: Adapter, weights: tuple[float, float]) -> dict[str, Any]:
    parts = [_updates(base, adapter.tensors, adapter.about.lora) for adapter in (one, other)]
    names = parts[0].keys() | parts[1].keys()
    return {
        name: sum(weight * part[name] for weight, part in zip(weights, parts, strict=True) if name in part)
        for name in names
    }


def test_cat_is_the_exact_weighted_sum_whatever_ranks_targets_and_layers(base: BaseModel) -> None:
    one, other = _adapter(base, FIRST, 1), _adapter(base, SECOND, 2)
    merged = merge([one, other], [0.75, 0.5], base, method="cat")
    assert (merged.lora.rank, merged.lora.alpha, merged.lora.layers) == (6, 6.0, None)
    assert merged.lora.targets == ["query", "value", "output.dense"]
    found, wanted = _child(base, merged), _wanted(base, one, other, (0.75, 0.5))
    assert len(wanted) == 11  # query in 2 layers, value and two kinds of output.dense in 3
    for name, value in found.items():
        assert np.abs(value - wanted.get(name, 0)).max() < 1e-6
    assert merged.distance < 1e-6
    tensors = merged.schema.unflatten(merged.state)
    for name in ("head.weight", "head.covariates", "head.bias"):
        mean = 0.6 * one.tensors[name] + 0.4 * other.tensors[name]
        assert np.abs(tensors[name] - mean).max() < 1e-6


def test_svd_keeps_what_is_best_of_that_rank_and_says_what_is_lost(base: BaseModel) -> None:
    one, other = _adapter(base, FIRST, 1), _adapter(base, FIRST, 2)
    wanted = _wanted(base, one, other, (0.5, 0.5))
    whole = merge([one, other], [0.5, 0.5], base, method="svd", rank=8)
    assert whole.distance < 1e-5
    cut = merge([one, other], [0.5, 0.5], base, method="svd")
    assert cut.lora.rank == 4
    lost = sum((np.linalg.svd(value)[1][4:] ** 2).sum() for value in wanted.values())
    all_of_it = sum((value**2).sum() for value in wanted.values())
    assert cut.distance == pytest.approx(np.sqrt(lost / all_of_it), rel=1e-4)
    assert 0.2 < cut.distance < 0.7


def test_our_svd_is_peft_s(base: BaseModel) -> None:
    source = np.random.default_rng(3)
    pairs = [
        (
            source.standard_normal((rank, 40)).astype(np.float32),
            source.standard_normal((30, rank)).astype(np.float32),
        )
        for rank in (4, 2)
    ]
    parents = [{"a.b": pair} for pair in pairs]
    for rank in (1, 3, 6, 8):
        down, up = cut(pairs, [0.7, 0.4], rank)
        theirs = weighted(parents, [0.7, 0.4], {"a.b": (30, 40)}, "svd", rank, None, 0)["a.b"]
        assert (down.shape, up.shape) == ((rank, 40), (30, rank))
        assert np.abs(up @ down - theirs[1] @ theirs[0]).max() < 1e-5


def test_linear_has_cross_terms_and_the_child_says_how_much_that_is(base: BaseModel) -> None:
    one, other = _adapter(base, FIRST, 1), _adapter(base, FIRST, 2)
    merged = merge([one, other], [0.5, 0.5], base, method="linear")
    name = next(iter(_child(base, merged)))
    down, up = (
        [adapter.tensors[name.replace("A.weight", end)] for adapter in (one, other)]
        for end in ("A.weight", "B.weight")
    )
    assert np.abs(_child(base, merged)[name] - 2 * (0.5 * (up[0] + up[1]) @ (down[0] + down[1]))).max() < 1e-5
    assert 0.5 < merged.distance < 1.5
    same = merge([one, one], [0.5, 0.5], base, method="svd")
    assert same.distance < 1e-5  # an adapter merged with itself is itself


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith(("ties", "dare"))])
def test_trimming_methods_give_the_same_child_for_the_same_seed(base: BaseModel, method: Any) -> None:
    one, other = _adapter(base, FIRST, 1), _adapter(base, SECOND, 2)
    first = merge([one, other], [1.0, 1.0], base, method=method, density=0.5, seed=3)
    again = merge([one, other], [1.0, 1.0], base, method=method, density=0.5, seed=3)
    assert np.array_equal(first.state, again.state)
    assert first.lora.rank == 4
    if method.startswith("dare"):
        another = merge([one, other], [1.0, 1.0], base, method=method, density=0.5, seed=4)
        assert not np.array_equal(first.state, another.state)


def test_all_differences_are_told_at_once_with_both_label_lists(tiny: dict[str, BaseModel]) -> None:
    base = tiny["bert"]
    one = _adapter(base, FIRST, 1)
    other = _adapter(base, FIRST, 2, head=ClassificationHead(labels=["0", "1", "2"]), metric="accuracy")
    other = replace(
        other, about=other.about.model_copy(update={"base": BaseRef(id="x", revision="1", digest="0" * 64)})
    )
    with pytest.raises(ModelError) as caught:
        merge([one, other], [1, 1], base, method="cat")
    assert caught.value.code == "model.merge_mismatch"
    for part in (
        "`0`, `1`, `2`",
        "`no`, `yes`",
        "covariates",
        "'accuracy', not 'auc'",
        "0000000000000000",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("weights", "options"),
    [
        ([1.0], {"method": "cat"}),
        ([1.0, 0.0], {"method": "cat"}),
        ([1.0, float("nan")], {"method": "cat"}),
        ([1.0, 1.0], {"method": "ties"}),
        ([1.0, 1.0], {"method": "ties", "density": 1.0}),
        ([1.0, 1.0], {"method": "cat", "density": 0.5}),
        ([1.0, 1.0], {"method": "linear", "rank": 4}),
        ([1.0, 1.0], {"method": "best"}),
    ],
)
def test_what_a_method_does_not_take(base: BaseModel, weights: list[float], options: Any) -> None:
    adapters = [_adapter(base, FIRST, 1), _adapter(base, FIRST, 2)]
    with pytest.raises(UsageError) as caught:
        merge(adapters, weights, base, **options)
    assert caught.value.code == "usage.merge"
