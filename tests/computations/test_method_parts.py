"""What the LoRA methods share and promise: factors that are the same everywhere, frames, sizes."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from plasmid.bases.store import BaseModel, ensure_model
from plasmid.computations import _algebra, _factors, api, fedsb
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Recipe
from support.tiny.method_rounds import Rounds, lora

pytestmark = pytest.mark.usefixtures("at_home")


# -- the same everywhere ---------------------------------------------------------------------------


def perturbed(matrix: np.ndarray, seed: int) -> np.ndarray:
    return matrix * (1 + 1e-14 * np.random.default_rng(seed).standard_normal(matrix.shape))


@pytest.mark.parametrize("case", ["random", "equal", "low rank", "zero"])
def test_factors_are_the_same_where_the_library_rounds_differently(case: str) -> None:
    """Rounding is played by changes of 1e-14; a plain SVD turns equal singular values at will."""
    source = np.random.default_rng(1)
    u, v = np.linalg.qr(source.normal(size=(40, 6)))[0], np.linalg.qr(source.normal(size=(30, 6)))[0].T
    sizes = {"random": [5, 4, 3, 2, 1, 0.5], "equal": [2, 2, 2, 1, 1, 1], "low rank": [3, 1, 1, 0, 0, 0]}
    left = u * np.array(sizes.get(case, [0.0] * 6))
    spare = source.normal(size=(6, 30))
    first_b, first_a = _algebra.refactored(left, v, 6, spare)
    for seed in range(3):
        b, a = _algebra.refactored(perturbed(left, seed), perturbed(v, seed + 9), 6, spare)
        assert np.abs(a - first_a).max() < 1e-6
        assert np.abs(b - first_b).max() < 1e-6
    assert np.abs(first_b @ first_a - left @ v).max() < 1e-12
    assert np.abs(first_a @ first_a.T - np.eye(6)).max() < 1e-12
    if case == "equal":  # the positive control
        plain = [np.linalg.svd(perturbed(left, seed) @ v)[2][:3] for seed in range(3)]
        assert max(np.abs(np.abs(one) - np.abs(plain[0])).max() for one in plain) > 1e-2


def test_frames_are_the_leading_directions_and_made_of_elementwise_arithmetic_alone(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(tiny["esm"], "fedsb", adapter={"lora": lora(rank=2)})
    frames = rounds.method.frames(rounds.document, rounds.base)
    assert len(frames) == 4
    for name, outer in frames.items():
        assert (outer.shape, outer.dtype) == ((32, 2), np.float32)
        assert np.abs(outer.T.astype(np.float64) @ outer - np.eye(2)).max() < 1e-6
        inner = _factors.parts(rounds.whole, rounds.adapter())[name.replace(_factors.UP, _factors.DOWN)]
        weight = fedsb_weight(rounds.base, name)
        assert np.linalg.norm(outer.T @ weight @ inner.T) > 0.85 * np.linalg.norm(
            np.linalg.svd(weight)[1][:2]
        )
    fedsb._computed.cache_clear()
    for routine in ("matmul", "dot", "einsum", "inner", "vdot"):
        monkeypatch.delattr(np, routine)
    for routine in ("svd", "qr", "norm"):
        monkeypatch.delattr(np.linalg, routine)
    again = rounds.method.frames(rounds.document, rounds.base)
    assert all(np.array_equal(again[name], frames[name]) for name in frames)


def fedsb_weight(base: BaseModel, name: str) -> np.ndarray:
    from plasmid.bases.tensors import read_floats

    path = name.removeprefix("base_model.model.").replace(_factors.UP, ".weight")
    return read_floats(base.path / "model.safetensors")[path].astype(np.float64)


# -- sizes -----------------------------------------------------------------------------------------


def sizes(document: Recipe, base: BaseModel) -> dict[str, int]:
    """Return how many numbers each method sends in a round."""
    found = {}
    for name in api.METHODS:
        values = document.model_dump(mode="json")
        values["computation"] = name
        values["adapter"]["sketch_width"] = 48 if name == "sketch" else None
        found[name] = api.load(name).shape(Recipe.model_validate(values), base).schema.size
    return found


def test_what_the_methods_send_on_the_shipped_recipe_s_base(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("antiberty") is None:
        pytest.skip("the weights are not installed")
    monkeypatch.delenv("PLASMID_HOME", raising=False)
    # Without the words of CDR3: 16,840 weights of the head, the same whatever the method.
    genes = {"adapter.covariates": "[v_gene, j_gene]", "adapter.kmers": "null"}
    document = load_recipe("tcr-covid", overrides=genes).recipe
    base = ensure_model(document.model.base, revision=document.model.revision, digest=document.model.digest)
    head = sum(spec.size for spec in _factors.head_of(_factors.schema_of(document, base)))
    found = {name: size - head for name, size in sizes(document, base).items()}
    assert found["finetune"] == 4 * 8 * (512 + 512)
    assert found["ffa_lora"] == found["rolora"] == found["fedsvd"] == found["finetune"] // 2
    assert found["fedsb"] / found["finetune"] < 0.01  # 256 to 32,768
    assert found["sketch"] == 4 * (512 * (48 + 4) + (48 + 4 + 8 + 8) * 512)
    everywhere = {"rank": 8, "alpha": 16.0, "targets": ["all-linear"]}
    values = document.model_dump(mode="json")
    values["adapter"]["lora"] = everywhere
    whole = sizes(Recipe.model_validate(values), base)
    assert whole["fedsb"] / whole["finetune"] < 0.02  # the head included
