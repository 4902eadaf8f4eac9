"""What a site keeps for itself: which tensors those are, that none is public, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.computations import _factors, api
from plasmid.computations._personal import keeps, personal_in, personal_of, public_of, with_personal
from support.tiny.method_rounds import UNIT, Rounds, lora, problem, recipe

pytestmark = pytest.mark.usefixtures("at_home")
CANARY = 777.0


@pytest.mark.parametrize("name", api.METHODS)
def test_every_method_leaves_a_personal_head_at_home(name: str, tiny: dict[str, BaseModel]) -> None:
    rounds = Rounds(tiny["esm"], name, adapter={"personal": ["head"]})
    own, public = (one(rounds.document, rounds.base) for one in (personal_of, public_of))
    assert {spec.name for spec in own.tensors} >= {"head.weight", "head.covariates", "head.bias"}
    assert own.size + public.size == rounds.whole.size
    assert not {spec.name for spec in own.tensors} & {spec.name for spec in rounds.shape.schema.tensors}
    assert not {spec.name for spec in own.tensors} & {spec.name for spec in rounds.shape.state.tensors}
    trained = rounds.trained(1)
    for adapter in trained:
        for key, value in _factors.parts(rounds.whole, adapter).items():
            if key in {spec.name for spec in own.tensors}:
                value[:] = CANARY
    summed = rounds.summed(trained, 1, exact=True)
    assert np.abs(summed.values).max() < CANARY / 10
    rounds.advance(summed)
    # what everybody has is as it started where it is personal, and has learned elsewhere
    released = _factors.parts(rounds.whole, rounds.adapter())
    assert not any(released[spec.name].any() for spec in own.tensors)
    assert any(value.any() for key, value in released.items() if key.endswith(_factors.UP)) == (
        name != "fedsa"
    )
    whole = with_personal(
        rounds.document, rounds.base, rounds.adapter(), personal_in(rounds.document, rounds.base, trained[0])
    )
    assert (_factors.parts(rounds.whole, whole)["head.weight"] == CANARY).all()


def test_fedsa_sums_a_and_the_head_and_no_site_s_b(tiny: dict[str, BaseModel]) -> None:
    rounds = Rounds(tiny["esm"], "fedsa")
    names = [spec.name for spec in rounds.shape.schema.tensors]
    assert any(name.endswith(_factors.DOWN) for name in names)
    assert "head.weight" in names
    assert not any(name.endswith(_factors.UP) for name in names)
    before, trained = rounds.adapter(), rounds.trained(1)
    rounds.advance(rounds.summed(trained, 1))
    expected = np.mean(trained, axis=0, dtype=np.float64)
    was, now, mean = (_factors.parts(rounds.whole, one) for one in (before, rounds.adapter(), expected))
    for name, value in now.items():
        if name.endswith(_factors.UP):
            assert not value.any()
        else:
            assert np.abs(value - mean[name]).max() < 1e-5
            assert np.abs(value - was[name]).max() > 1e-3


def test_the_sites_of_a_personal_method_start_with_what_the_adapter_starts_with(
    tiny: dict[str, BaseModel],
) -> None:
    rounds = Rounds(tiny["esm"], "fedsa")
    start = Rounds(tiny["esm"], "finetune").adapter()
    assert np.array_equal(rounds.adapter(), start)
    assert np.array_equal(with_personal(rounds.document, rounds.base, rounds.adapter(), None), start)


def test_whether_a_site_keeps_an_adapter_of_its_own(tiny: dict[str, BaseModel]) -> None:
    base = tiny["esm"]
    assert not keeps(recipe(base, "finetune"))
    assert keeps(recipe(base, "finetune", training={"personal_steps": 5}))
    assert keeps(recipe(base, "finetune", adapter={"personal": ["head"]}))
    assert keeps(recipe(base, "fedsa"))


@pytest.mark.parametrize(
    ("method", "sections", "says"),
    [
        (
            "fedsa",
            {"training": {"steps": 1}, "privacy": UNIT | {"mechanism": "dp-fedsgd"}},
            "what a site keeps for itself (B) would carry its records into the next sum without noise",
        ),
        (
            "finetune",
            {
                "adapter": {"personal": ["head"]},
                "training": {"steps": 1},
                "privacy": UNIT | {"mechanism": "dp-fedsgd"},
            },
            "(head) would carry",
        ),
        (
            "finetune",
            {
                "training": {"personal_steps": 3},
                "privacy": {"audit": {"canaries": 10, "max_audited_epsilon": 8.0}},
            },
            "canaries are guessed from what is released",
        ),
        ("fedsa", {"release": {"min_metric": 0.5}}, "has no metric of its own"),
        (
            "finetune",
            {"adapter": {"personal": ["head"]}, "training": {"lora_lr": 0.0}},
            "nothing is learned together",
        ),
    ],
)
def test_what_is_unsound_or_means_nothing_is_refused(
    method: str, sections: dict[str, dict[str, object]], says: str, tiny: dict[str, BaseModel]
) -> None:
    assert says in problem(tiny["esm"], method, **sections)


@pytest.mark.parametrize("mechanism", ["dp-sgd", "output"])
def test_what_noises_all_that_learns_or_the_whole_vector_goes_with_personal_parts(
    mechanism: str, tiny: dict[str, BaseModel]
) -> None:
    privacy = UNIT | {"mechanism": mechanism}
    if mechanism == "output":
        privacy["record_clip"] = None
    made = recipe(tiny["esm"], "fedsa", privacy=privacy, adapter={"lora": lora(), "personal": ["head"]})
    # the clip and noise of dp-sgd are over the personal parts, too: what is summed next depends on them
    assert api.method(made).learns(made, 1) >= {"A", "B", "head"}
