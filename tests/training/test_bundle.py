"""A bundle's Python runs from its text, and whatever it does wrong is one error without its words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.protocol.body import pack
from plasmid.recipes.python import LossBundle
from plasmid.recipes.schema import Recipe
from plasmid.worker.bundle import BundleCode, as_losses, as_vector, called, forget
from support.federation.attacks import refusal
from support.federation.bundle_recipes import OUTPUT, ages, bundle_recipe, computed, session
from support.tiny.tiny_task import tiny_recipe, tiny_table

CANARY = "CANARY-4711"


@pytest.fixture(autouse=True)
def _no_bundle_stays() -> Iterator[None]:
    yield
    forget()


def test_modules_are_their_text_and_import_one_another() -> None:
    code = BundleCode(
        {"entry.py": "from .helper import ONE\n\ndef vector(): return ONE + 1", "helper.py": "ONE = 1"}
    )
    code.install()
    assert code.function("entry", "vector")() == 2
    assert not hasattr(sys.modules["plasmid_bundle.helper"], "__file__")


def test_a_second_bundle_replaces_the_first() -> None:
    """A worker that stays warm would otherwise run what was imported before."""
    for number in (1, 2):
        code = BundleCode({"entry.py": f"def vector(): return {number}"})
        code.install()
        assert code.function("entry", "vector")() == number
    assert sum(isinstance(finder, BundleCode) for finder in sys.meta_path) == 1


def test_a_module_cannot_take_an_installed_one_s_place() -> None:
    code = BundleCode(
        {"entry.py": "import numpy\n\ndef vector(): return numpy.__name__", "numpy.py": "raise OSError"}
    )
    code.install()
    assert code.function("entry", "vector")() == "numpy"


@pytest.mark.parametrize(
    "text",
    ["def vector(:", "x = 1", "vector = 1", "import no_such_module_here", "raise SystemExit(0)",
     "from . import gone", "from ..x import y"],
)  # fmt: skip
def test_code_that_cannot_be_run(text: str) -> None:
    with refusal("run.bundle"):
        code = BundleCode({"entry.py": text})
        code.install()
        code.function("entry", "vector")


def test_a_failure_tells_lines_and_no_words(capfd: pytest.CaptureFixture[str]) -> None:
    text = f"""
class Secret{CANARY[:6]}(Exception): pass

def known(row):
    raise ValueError(row)

def own(row):
    raise Secret{CANARY[:6]}(row)

def prints(row):
    print(row)
    import sys
    print(row, file=sys.stderr)
    raise SystemExit(row)
"""
    code = BundleCode({"entry.py": text})
    code.install()
    for name in ("known", "own", "prints"):
        with refusal("run.bundle") as caught:
            called(name, code.function("entry", name), CANARY)
        assert CANARY not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    said = capfd.readouterr()
    assert CANARY[:6] not in said.out + said.err
    assert said.err.splitlines() == [
        "bundle: known: ValueError < <entry.py>:5",
        "bundle: own: an exception of its own < <entry.py>:8",
        "bundle: prints: SystemExit < <entry.py>:14",
    ]


@pytest.mark.parametrize(
    ("value", "sound"),
    [([1, 2, 3], True), ((0.5, True, 2), True), (np.arange(3, dtype=np.float32), True), (np.arange(4), False),
     (np.zeros((3, 1)), False), ([1, 2, float("nan")], False), ([1, 2, float("inf")], False), ("123", False),
     (None, False), (["1", "2", "3"], False), ([1j, 0, 0], False), ([10**400, 0, 0], False), ({}, False),
     (np.zeros(3, "datetime64[s]"), False)],
)  # fmt: skip
def test_what_counts_as_a_vector(value: Any, sound: bool) -> None:
    if sound:
        vector = as_vector(value, 3)
        assert (vector.dtype, vector.shape) == (np.float64, (3,))
    else:
        with refusal("run.bundle"):
            as_vector(value, 3)


def test_a_vector_that_is_changed_afterwards_changes_nothing() -> None:
    kept = np.ones(3)
    vector = as_vector(kept, 3)
    kept[:] = 9.0
    assert vector.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "sound"),
    [(torch.ones(4), True), (torch.ones(4, dtype=torch.bfloat16), True), (torch.ones(3), False),
     (torch.ones(4, 1), False), (torch.ones(4, dtype=torch.int64), False), (torch.tensor(1.0), False),
     (np.ones(4), False), (None, False)],
)  # fmt: skip
def test_what_counts_as_losses(value: Any, sound: bool) -> None:
    if sound:
        assert as_losses(value, 4).dtype == torch.float32
    else:
        with refusal("run.bundle"):
            as_losses(value, 4)


# -- in the worker ---------------------------------------------------------------------------------

SUMS = (
    "def per_record(state, row, settings): return None if row['age'] is None else [row['age'], state[1], 1.0]"
)
VECTOR = """
    def vector(state, view, settings):
        ages = [age for age in view["age"] if age is not None]
        return [sum(ages) * settings["scale"], float(len(ages)), state[2]]
"""


def test_records_are_summed_within_the_declared_bound() -> None:
    document = bundle_recipe(SUMS, bound=50.0)
    total = computed(document, ages(20.0, None, 90.0), np.array([0.0, 2.5, 0.0]))
    assert total.tolist() == [70.0, 5.0, 2.0]


def test_a_finished_vector_is_computed_from_the_view() -> None:
    document = bundle_recipe(VECTOR, half="vector", settings={"scale": 0.5})
    assert computed(document, ages(20.0, None, 90.0), np.array([0.0, 0.0, 7.0])).tolist() == [55.0, 2.0, 7.0]


@pytest.mark.parametrize(
    "code", ["return 1 / 0", "return [0.0] * 4", "return [float('nan')] * 3", "raise SystemExit"]
)
@pytest.mark.parametrize("half", ["per_record", "vector"])
def test_a_failure_is_told_without_a_unit_and_is_zeros_under_one(half: str, code: str) -> None:
    """Under a unit the site's dropping out would tell that there is a row which it fails on."""
    text = f"def {half}(state, rows, settings):\n    {code}"
    with refusal("run.bundle"):
        computed(bundle_recipe(text, half=half), ages(1.0))
    assert computed(bundle_recipe(text, half=half, privacy=OUTPUT), ages(1.0)).tolist() == [0.0, 0.0, 0.0]


def test_the_state_cannot_be_written_to() -> None:
    text = "def vector(state, view, settings):\n    state[0] = 1.0\n    return state"
    with refusal("run.bundle"):
        computed(bundle_recipe(text, half="vector"), ages(1.0))


# -- a loss ----------------------------------------------------------------------------------------


def with_loss(base: BaseModel, code: str, **privacy: Any) -> Recipe:
    """Return a tiny recipe whose loss is *code*."""
    values = tiny_recipe(base, steps=2).model_dump(mode="json")
    values["bundle"] = {
        "files": {"entry.py": code},
        "entry": "entry",
        "half": "loss",
        "settings": {"share": 0.0},
    }
    values["privacy"] |= privacy
    return Recipe.model_validate(values)


CROSS_ENTROPY = """
from torch.nn.functional import cross_entropy

def loss(model, batch, settings):
    return cross_entropy(model(batch).float(), batch.labels, reduction="none") * (1.0 - settings["share"])
"""
ORDER = {"phase": "train", "round": 1, "seed": 3, "sampling": None}
FAILS_IN_THE_GRADIENT = """
def loss(model, batch, settings):
    values = model(batch).float().sum(dim=1)
    values.register_hook(lambda gradient: [][0])
    return values
"""
"""When no line of the bundle is being called by ours."""


def trained(document: Recipe, base: BaseModel) -> np.ndarray:
    """Return a worker's update for the first state."""
    at = session(document, tiny_table(32), base)
    return at.compute((ORDER, pack("state", initial_state(at.shape.schema, 0))))


@pytest.mark.usefixtures("at_home")
def test_a_loss_of_its_own_trains_as_the_same_one_of_ours(tiny: dict[str, BaseModel]) -> None:
    base = tiny["esm"]
    plain = trained(tiny_recipe(base, steps=2), base)
    assert np.array_equal(trained(with_loss(base, CROSS_ENTROPY), base), plain)
    assert np.linalg.norm(plain) > 0
    other = CROSS_ENTROPY.replace("1.0 - settings", "batch.labels - settings")
    assert not np.allclose(trained(with_loss(base, other), base), plain)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    "code",
    [
        "def loss(model, batch, settings): return 1.0",
        "def loss(model, batch, settings): return model(batch).float().mean()",
        "def loss(model, batch, settings): raise OSError('CANARY')",
        FAILS_IN_THE_GRADIENT,
    ],
)
def test_a_loss_that_fails(tiny: dict[str, BaseModel], code: str) -> None:
    with refusal("run.bundle") as caught:
        trained(with_loss(tiny["esm"], code), tiny["esm"])
    assert "CANARY" not in str(caught.value)
    assert not trained(with_loss(tiny["esm"], code, **OUTPUT), tiny["esm"]).any()


@pytest.mark.usefixtures("at_home")
def test_a_loss_bundle_is_for_mechanisms_that_do_not_rest_on_it(tiny: dict[str, BaseModel]) -> None:
    unit = {"unit": "record", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.0}
    for mechanism in ("dp-sgd", "dp-fedsgd"):
        with pytest.raises(ValueError, match="sections contradict"):
            with_loss(tiny["esm"], CROSS_ENTROPY, **unit, mechanism=mechanism)
    with pytest.raises(ValueError, match="sections contradict"):
        with_loss(tiny["esm"], CROSS_ENTROPY, audit={"canaries": 40, "max_audited_epsilon": 4.0})
    assert isinstance(with_loss(tiny["esm"], CROSS_ENTROPY, **OUTPUT).bundle, LossBundle)
