"""What no LoRA method can do, and what the digest covers of one."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import pytest

from plasmid import computations
from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.core.errors import RecipeError
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.query import document_type
from plasmid.recipes.schema import Recipe
from support.tiny.method_rounds import UNIT, lora, problem, recipe

STOP = {"share": 0.2, "patience": 1}
pytestmark = pytest.mark.usefixtures("at_home")


def test_every_method_is_known_everywhere() -> None:
    """Found in the package, allowed in a recipe, a document's type, and told to people who approve."""
    found = {module.name for module in pkgutil.iter_modules(computations.__path__)}
    public = {name for name in found if not name.startswith("_") and name not in ("api", "bundle")}
    assert {name for name in public if api.load(name).SITE_HALF == "loss"} == set(api.METHODS)
    assert all(document_type(name) is Recipe for name in api.METHODS)
    assert all(api.words(name).startswith(f"{name}: ") for name in {*public, "bundle"})


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "sections", "says"),
    [
        ("sketch", {"adapter": {"sketch_width": None}}, "is needed by computation: sketch"),
        ("rolora", {"adapter": {"sketch_width": 16}}, "means nothing with computation: rolora"),
        ("sketch", {"training": {"steps": 1}, "privacy": UNIT | {"mechanism": "dp-fedsgd"}}, "not linear"),
        ("finetune", {"training": {"steps": 1, "proximal": 0.1}}, "means nothing with one step"),
        (
            "finetune",
            {"adapter": {"ranks": {"alpha": 2}}},
            "use computation: sketch, which averages products",
        ),
        ("sketch", {"adapter": {"ranks": {"alpha": 5}}}, "the adapter is cut to lora.rank 4"),
        ("sketch", {"adapter": {"ranks": {"alpha": 2, "beta": 1}, "sketch_width": 6}}, "add up to 7 or more"),
        ("fedsvd", {"training": {"lora_b_ratio": 4.0}}, "in which A never learns"),
        ("finetune", {"training": {"lora_b_ratio": 4.0, "lora_lr": 0.0}}, "freezes B as well"),
        (
            "finetune",
            {"training": {"first_steps": [4, 2, 1]}},
            "3 rounds are listed, and federation.rounds is 2",
        ),
        (
            "finetune",
            {"training": {"first_steps": [4, 2]}, "privacy": UNIT | {"mechanism": "dp-sgd"}},
            "charged alike",
        ),
        (
            "finetune",
            {"training": {"schedule": {"kind": "linear", "warmup_rounds": 2}}},
            "all 2 rounds would warm up",
        ),
        ("finetune", {"federation": {"stop": {"share": 0.2, "patience": 2}}}, "cannot end a run of 2 rounds"),
        (
            "finetune",
            {"federation": {"stop": STOP}, "privacy": UNIT | {"mechanism": "dp-sgd"}},
            "would need noise and a charge of its own",
        ),
        ("finetune", {"federation": {"stop": STOP}, "privacy": {"protect": "none"}}, "use protect: masked"),
        (
            "sketch",
            {"federation": {"stop": STOP}, "adapter": {"ranks": {"alpha": 2}}},
            "cannot judge the whole adapter",
        ),
    ],
)
def test_what_a_method_cannot_do_is_a_contradiction(
    method: str, sections: dict[str, Any], says: str, tiny: dict[str, BaseModel]
) -> None:
    assert says in problem(tiny["esm"], method, **sections)


@pytest.mark.parametrize("method", api.METHODS)
def test_every_method_takes_any_server_optimiser(method: str, tiny: dict[str, BaseModel]) -> None:
    assert recipe(tiny["esm"], method, federation={"server": {"strategy": "FedAdam", "options": {}}})


@pytest.mark.parametrize(
    ("name", "why", "nearest"),
    [
        ("krum", "compares single contributions", "finetune, whose update_clip"),
        ("median", "compares single contributions", "finetune, whose update_clip"),
        ("flora", "stacks every site's factors", "sketch, which recovers the mean product"),
        ("FedEx-LoRA", "needs every site's product", "sketch, which recovers the mean product"),
        ("fedsa_lora", "it has a shorter name here", "fedsa"),
        ("fedprox", "no method of its own", "training.proximal"),
    ],
)
def test_what_no_sum_gives_is_refused_by_name(
    name: str, why: str, nearest: str, tiny: dict[str, BaseModel]
) -> None:
    for refused in (lambda: recipe(tiny["esm"], name), lambda: document_type(name)):
        with pytest.raises((ValueError, RecipeError)) as caught:
            refused()
        assert why in str(caught.value)
        assert nearest in str(caught.value)


def test_a_rank_without_orthonormal_factors_is_refused(tiny: dict[str, BaseModel]) -> None:
    for name in ("fedsvd", "fedsb", "sketch"):
        document = recipe(
            tiny["esm"], name, adapter={"lora": lora(rank=33), "sketch_width": None, **WIDE.get(name, {})}
        )
        with pytest.raises(RecipeError, match=r"of rank 33 cannot be orthonormal at .*width of 32") as caught:
            api.load(name).shape(document, tiny["esm"])
        assert caught.value.code == "recipe.rank"


WIDE = {"sketch": {"sketch_width": 200}}


# -- the digest ------------------------------------------------------------------------------------


def test_the_digest_covers_what_a_method_shares(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from plasmid.recipes import digest as digests

    covered = {name: set(digests._sources(name)) for name in (*api.METHODS, "mean", "ping")}
    assert covered["mean"] == {"mean"}
    assert covered["finetune"] == {"finetune", "_factors", "_personal"}
    assert covered["rolora"] == {"rolora", "finetune", "_factors", "_personal"}
    assert covered["fedsvd"] == {"fedsvd", "finetune", "_factors", "_personal", "_algebra"}
    document = recipe(tiny["esm"], "fedsvd").model_dump(mode="json")
    whole = recipe_digest(document, "fedsvd")
    original = digests._path
    for name in ("_algebra", "_factors", "_personal", "finetune", "fedsvd"):
        monkeypatch.setattr(
            digests,
            "_path",
            lambda asked, end=f".{name}": (_Longer if asked.endswith(end) else Path)(original(asked)),
        )
        assert recipe_digest(document, "fedsvd") != whole, name


class _Longer:
    """A file with a line more."""

    def __init__(self, path: Any) -> None:
        self._path = path

    def read_bytes(self) -> bytes:
        return bytes(self._path.read_bytes()) + b"more = 1\n"


def test_imports_are_found_however_they_are_written() -> None:
    from plasmid.recipes.digest import _imported

    source = b"""
import plasmid.computations._factors
from plasmid.computations import api, mean
def late():
    from plasmid.computations._algebra import uniform
    from .ping import shape
    from . import counts
    from plasmid.gateway import explanation
from plasmid.adapters.adapter import nothing
"""
    names = {"_factors", "mean", "_algebra", "ping", "counts"}
    assert _imported("plasmid.computations.rolora", source) == {
        f"plasmid.computations.{name}" for name in names
    }
