"""The LoRA methods: from updates in a ring to a state, against plain arithmetic on plain factors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import adapter_schema, of_rank
from plasmid.bases.store import BaseModel
from plasmid.computations import _algebra, _factors, api, sketch
from plasmid.core.errors import RecipeError
from plasmid.planner.attempts import attempt_plan, check_ranks
from plasmid.protocol.messages import Planned
from plasmid.recipes.schema import Recipe
from support.tiny.method_rounds import EXACT, SITES, UNIT, Rounds, lora, problem, recipe, worst

pytestmark = pytest.mark.usefixtures("at_home")


# -- what comes of a sum ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_the_mean_product_comes_out_of_the_ring(name: str, tiny: dict[str, BaseModel]) -> None:
    rounds = Rounds(tiny["esm"], name)
    for round_ in range(1, 5):
        trained = rounds.trained(round_)
        products, heads = rounds.products(trained), rounds.heads(trained)
        rounds.advance(rounds.summed(trained, round_))
        assert worst(rounds.products([rounds.adapter()]), products) < 1e-6, round_
        assert np.abs(rounds.heads([rounds.adapter()]) - heads).max() < 1e-6
    assert max(np.abs(product).max() for product in products.values()) > 1e-3  # there was something to mix


def test_the_baseline_s_product_of_means_is_another(tiny: dict[str, BaseModel]) -> None:
    """The positive control: what the exact methods are for."""
    rounds = Rounds(tiny["esm"], "finetune")
    for round_ in (1, 2):
        trained = rounds.trained(round_)
        rounds.advance(rounds.summed(trained, round_))
        assert np.abs(rounds.state - np.mean(trained, axis=0)).max() < 1e-6
        assert worst(rounds.products([rounds.state]), rounds.products(trained)) > 1e-4


def test_rolora_moves_one_half_a_round_and_its_vector_tells_neither(tiny: dict[str, BaseModel]) -> None:
    rounds = Rounds(tiny["esm"], "rolora", adapter={"lora": lora(targets=["intermediate.dense"])})
    half = rounds.shape.schema.tensors[0]
    assert (half.name, half.size) == ("half", 2 * 4 * 48)  # B is longer: 32 to 48
    for round_, moves, stays in ((1, _factors.UP, _factors.DOWN), (2, _factors.DOWN, _factors.UP)):
        before = _factors.parts(rounds.whole, rounds.state)
        summed = rounds.summed(rounds.trained(round_), round_)
        rounds.advance(summed)
        after = _factors.parts(rounds.whole, rounds.state)
        for module in _factors.modules(rounds.whole):
            assert np.array_equal(after[module + stays], before[module + stays])
            assert not np.array_equal(after[module + moves], before[module + moves])
    assert not summed.values[2 * 4 * 32 : half.size].any()  # round 2: A, then padding


def test_fedsvd_leaves_orthonormal_rows_and_orthogonal_columns(tiny: dict[str, BaseModel]) -> None:
    rounds = Rounds(tiny["esm"], "fedsvd")
    rounds.advance(rounds.summed(rounds.trained(1), 1))
    tensors = _factors.parts(rounds.whole, rounds.state.astype(np.float64))
    for module in _factors.modules(rounds.whole):
        down, up = tensors[module + _factors.DOWN], tensors[module + _factors.UP]
        assert np.abs(down @ down.T - np.eye(4)).max() < 1e-6
        gram = up.T @ up
        assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-7
        assert (np.diff(np.diag(gram)) < 0).all()


def test_ffa_lora_sends_no_a_and_everybody_makes_it_anew(tiny: dict[str, BaseModel]) -> None:
    rounds, baseline = Rounds(tiny["esm"], "ffa_lora"), Rounds(tiny["esm"], "finetune")
    assert np.array_equal(rounds.adapter(), baseline.adapter())
    assert rounds.shape.schema is rounds.shape.state
    assert not any(spec.name.endswith(_factors.DOWN) for spec in rounds.shape.state.tensors)


# -- the sketch ------------------------------------------------------------------------------------


def test_a_sketch_recovers_the_mean_product_to_the_last_digits(tiny: dict[str, BaseModel]) -> None:
    """In float64, over two rounds from factors that are not zero, by sites of rank 4 in a width of 16."""
    base, document = tiny["esm"], recipe(tiny["esm"], "sketch")
    source, outputs, inputs, rank = np.random.default_rng(0), 48, 32, 4
    up, down = source.normal(0, 1, (outputs, rank)), source.normal(0, 1, (rank, inputs))
    sites = [
        (up + source.normal(0, 0.3, up.shape), down + source.normal(0, 0.3, down.shape)) for _ in range(4)
    ]
    for round_ in (1, 2):
        omega = sketch.omega(document, round_, "layer", inputs)
        psi = sketch.psi(document, round_, "layer", outputs)
        changes = [b @ a - up @ down for b, a in sites]
        y = np.mean([change @ omega for change in changes], axis=0)
        z = np.mean([psi @ change for change in changes], axis=0)
        left, right = sketch.mean_product(document, "layer", up, down, y, z, round_)
        wanted = np.mean([b @ a for b, a in sites], axis=0)
        assert np.abs(left @ right - wanted).max() < 1e-10
        b, a = _algebra.refactored(left, right, rank, spare=down)
        u, sizes, v = np.linalg.svd(wanted)
        assert sizes[rank] > 0.1  # the mean has a higher rank than any site's product
        assert np.abs(b @ a - (u[:, :rank] * sizes[:rank]) @ v[:rank]).max() < 1e-10
    assert base.id == document.model.base


def test_a_sketch_that_is_too_narrow_would_be_wrong_and_is_refused(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], "sketch", adapter={"sketch_width": 12})
    shape = sketch.shape(document, tiny["esm"])
    assert shape.most_sites == 3
    attempt_plan(document, shape, sites=3, c=1, planned=Planned(sites=3, c=1, noise_rate=0.0))
    with pytest.raises(RecipeError, match="recovers the sum of 3 sites") as caught:
        attempt_plan(document, shape, sites=4, c=1, planned=Planned(sites=4, c=1, noise_rate=0.0))
    assert caught.value.code == "recipe.most_sites"
    assert "ranks add up to 12 or more" in problem(tiny["esm"], "sketch", adapter={"sketch_width": 11})
    # the positive control: four sites in a width for two miss what the mean is
    narrow = document.model_copy(update={"adapter": document.adapter.model_copy(update={"sketch_width": 8})})
    source = np.random.default_rng(0)
    changes = [source.normal(0, 1, (48, 4)) @ source.normal(0, 1, (4, 32)) for _ in range(4)]
    y = np.mean([change @ sketch.omega(narrow, 1, "layer", 32) for change in changes], axis=0)
    z = np.mean([sketch.psi(narrow, 1, "layer", 48) @ change for change in changes], axis=0)
    left, right = sketch.mean_product(narrow, "layer", np.zeros((48, 4)), np.zeros((4, 32)), y, z, 1)
    assert np.abs(left @ right - np.mean(changes, axis=0)).max() > 0.1


RANKS = {"alpha": 1, "beta": 4, "delta": 2, "epsilon": 3}


def test_unequal_ranks_give_the_plain_mean_of_the_products(tiny: dict[str, BaseModel]) -> None:
    """Of sites of rank 1, 2, 3 and 4 in a width of their sum, 10: to 1e-10, and to 1e-6 by the ring."""
    rounds = Rounds(tiny["esm"], "sketch", adapter={"sketch_width": 10, "ranks": RANKS})
    assert rounds.shape.most_sites == 4
    owns = {
        rank: adapter_schema(rounds.base, rounds.document.adapter.of_rank(rank).lora, rounds.document.head())
        for rank in RANKS.values()
    }
    for round_ in (1, 2, 3):
        before, moved = rounds.adapter(), rounds.trained(round_)
        trained = []
        for rank, after in zip(RANKS.values(), moved, strict=True):
            start = of_rank(before, rounds.whole, owns[rank])
            after = of_rank(
                start + of_rank(after - before, rounds.whole, owns[rank]), owns[rank], rounds.whole
            )
            tensors = _factors.parts(rounds.whole, after)
            assert {np.linalg.matrix_rank(tensors[m + _factors.UP] @ tensors[m + _factors.DOWN], tol=1e-7)
                    for m in _factors.modules(rounds.whole)} == {rank}  # fmt: skip
            trained.append(after)
        wanted, was = rounds.products(trained), _factors.parts(rounds.whole, before.astype(np.float64))
        for exact, least in ((True, 1e-10), (False, 1e-6)):
            mean = _means(rounds, trained, round_, exact=exact)
            for module in _factors.modules(rounds.whole):
                up, down = was[module + _factors.UP], was[module + _factors.DOWN]
                left, right = sketch.mean_product(
                    rounds.document,
                    module,
                    up,
                    down,
                    *(mean[f"{module}.sketch_{one}"] for one in "YZ"),
                    round_,
                )
                assert np.abs(left @ right - wanted[module]).max() < least
        rounds.advance(rounds.summed(trained, round_))


def _means(rounds: Rounds, trained: list[np.ndarray], round_: int, *, exact: bool) -> dict[str, np.ndarray]:
    """Return the mean sketches by name: in float64 from the factors, or as the ring gives them."""
    if not exact:
        return _factors.parts(rounds.shape.schema, rounds.summed(trained, round_).mean)
    was = _factors.parts(rounds.whole, rounds.adapter().astype(np.float64))
    found: dict[str, np.ndarray] = {}
    for after in trained:
        now = _factors.parts(rounds.whole, after.astype(np.float64))
        for module in _factors.modules(rounds.whole):
            change = now[module + _factors.UP] @ now[module + _factors.DOWN]
            change -= was[module + _factors.UP] @ was[module + _factors.DOWN]
            y = change @ sketch.omega(rounds.document, round_, module, change.shape[1])
            z = sketch.psi(rounds.document, round_, module, change.shape[0]) @ change
            for name, value in ((f"{module}.sketch_Y", y), (f"{module}.sketch_Z", z)):
                found[name] = found.get(name, 0.0) + value / len(trained)
    return found


def test_the_ranks_of_a_roster_must_fit_the_width(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], "sketch", adapter={"sketch_width": 10, "ranks": RANKS})
    shape = sketch.shape(document, tiny["esm"])
    check_ranks(document, shape, RANKS)
    for roster in (("alpha", "beta", "delta", "zeta"), (*RANKS, "zeta")):  # zeta has the adapter's rank, 4
        with pytest.raises(RecipeError) as caught:
            check_ranks(document, shape, roster)
        assert caught.value.code == "recipe.most_sites"
    assert "add up to 11" in refused(document, shape, ("alpha", "beta", "delta", "zeta"))


def refused(document: Recipe, shape: api.Shape, roster: tuple[str, ...]) -> str:
    with pytest.raises(RecipeError) as caught:
        check_ranks(document, shape, roster)
    return caught.value.message


def test_a_run_of_sketches_keeps_the_nearest_product_of_the_rank(tiny: dict[str, BaseModel]) -> None:
    rounds = Rounds(tiny["esm"], "sketch")
    for round_ in (1, 2, 3):
        trained = rounds.trained(round_)
        wanted, heads = rounds.products(trained), rounds.heads(trained)
        rounds.advance(rounds.summed(trained, round_))
        found = rounds.products([rounds.adapter()])
        for module, product in wanted.items():
            least = np.linalg.norm(np.linalg.svd(product)[1][4:])  # what no product of rank 4 can have
            assert np.linalg.norm(found[module] - product) < least + 1e-6
            assert np.linalg.svd(found[module])[1][4] < 1e-7
        assert np.abs(rounds.heads([rounds.adapter()]) - heads).max() < 1e-6


def test_sketches_keep_lengths_so_that_the_clip_means_what_it_says(tiny: dict[str, BaseModel]) -> None:
    rounds = Rounds(tiny["esm"], "sketch", adapter={"sketch_width": 400})
    (after, *_) = rounds.trained(1)
    vector = _factors.parts(
        rounds.shape.schema, rounds.method.sent(rounds.document, rounds.base, rounds.adapter(), after, 1)
    )
    for module, product in rounds.products([after]).items():
        length = np.linalg.norm(product)
        assert 0.85 < np.linalg.norm(vector[f"{module}.sketch_Y"]) / length < 1.15
        assert 0.85 < np.linalg.norm(vector[f"{module}.sketch_Z"]) / length < 1.15


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in api.METHODS if name not in ("sketch", "fedsa")])
def test_a_mean_gradient_is_a_step_of_sgd_on_what_learned(name: str, tiny: dict[str, BaseModel]) -> None:
    """The sum of gradients goes the way of a change; one of the change's size is one of minus rate over B."""
    rates: dict[str, Any] = {
        "steps": 1,
        "batch": 16,
        "lora_lr": 1.0,
        "head_lr": 0.5,
        "covariate_lr": 0.25,
        "schedule": {"kind": "constant", "warmup_rounds": 1},  # half of it in round 1
    }
    ratio = 3.0 if name in ("finetune", "rolora") else 1.0
    rates |= {"lora_b_ratio": ratio}
    privacy = UNIT | {"mechanism": "dp-fedsgd"}
    rounds = Rounds(tiny["esm"], name, training=rates, privacy=privacy)
    gradients = [after - rounds.adapter() for after in rounds.trained(1)]
    before = rounds.adapter()
    sent = [rounds.method.sent(rounds.document, rounds.base, np.zeros_like(g), g, 1) for g in gradients]
    rounds.advance(api.Sum(np.sum(sent, axis=0, dtype=np.float64), SITES, 1))
    mean = np.mean(gradients, axis=0)
    rate = np.concatenate(
        [
            np.full(
                spec.size,
                {"head.weight": 0.25, "head.bias": 0.25, "head.covariates": 0.125}.get(
                    spec.name, 0.5 * (1.0 if spec.name.endswith(_factors.DOWN) else ratio)
                ),
            )
            for spec in rounds.whole.tensors
        ]
    )
    expected = before - rate * mean / 16
    assert worst(rounds.products([rounds.adapter()]), rounds.products([expected])) < 1e-6
    assert np.abs(rounds.heads([rounds.adapter()]) - rounds.heads([expected])).max() < 1e-6
    if name != "fedsvd":  # there the factors turn
        assert np.abs(rounds.adapter() - expected).max() < 1e-6
