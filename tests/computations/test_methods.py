"""The LoRA methods: from updates in a ring to a state, against plain arithmetic on plain factors."""

from __future__ import annotations

import importlib.util
import pkgutil
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from plasmid import computations
from plasmid.computations import _algebra, _factors, api, fedsb, sketch
from plasmid.core.errors import RecipeError
from plasmid.gateway import explanation
from plasmid.models.store import BaseModel, ensure_model
from plasmid.privacy.ring import decode_sum, encode, plan_encoding
from plasmid.protocol.messages import Planned
from plasmid.protocol.plan import attempt_plan
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import document_type
from plasmid.recipes.schema import Recipe
from tiny_task import tiny_recipe

pytestmark = pytest.mark.usefixtures("at_home")
SITES = 4
EXACT = ["ffa_lora", "rolora", "fedsvd", "fedsb"]
EXTRA: dict[str, dict[str, Any]] = {"sketch": {"sketch_width": 16}}


def recipe(base: BaseModel, method: str, **sections: dict[str, Any]) -> Recipe:
    values = tiny_recipe(base).model_dump(mode="json")
    values["computation"] = method
    values["adapter"] |= EXTRA.get(method, {})
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


class Rounds:
    """One method on a tiny base: what sites make of the state, what the ring makes of that, and the step."""

    def __init__(self, base: BaseModel, name: str, **sections: dict[str, Any]) -> None:
        self.base, self.document = base, recipe(base, name, **sections)
        self.method: Any = api.load(name)
        self.shape: api.Shape = self.method.shape(self.document, base)
        self.whole = _factors.schema_of(self.document, base)
        self.state = self.method.initial(self.document, self.shape)
        self.source = np.random.default_rng(3)

    def adapter(self) -> np.ndarray:
        return self.method.adapter(self.document, self.base, self.state)

    def trained(self, round_: int, size: float = 0.02) -> list[np.ndarray]:
        """Return an adapter of each site, moved at random in what learns."""
        learns, frames = (
            self.method.learns(self.document, round_),
            self.method.frames(self.document, self.base),
        )
        found = []
        for _ in range(SITES):
            tensors = _factors.parts(self.whole, self.adapter().copy())
            for name, value in tensors.items():
                part = {_factors.DOWN[:7]: "A", _factors.UP[:7]: "B"}.get(name[-14:-7], "head")
                moved = self.source.normal(0, size, value.shape)
                if name in frames and "core" in learns:
                    moved, part = frames[name] @ self.source.normal(0, size, (value.shape[1],) * 2), "core"
                if part in learns:
                    value += moved.astype(np.float32)
            found.append(_factors.joined(self.whole, tensors))
        return found

    def summed(self, trained: list[np.ndarray], round_: int, *, exact: bool = False) -> api.Sum:
        """Return the sum of what the sites send: through the ring, or as it is."""
        vectors = [
            self.method.sent(self.document, self.base, self.adapter(), after, round_) for after in trained
        ]
        assert all(vector.shape == (self.shape.schema.size,) for vector in vectors)
        assert all(vector.dtype == np.float32 for vector in vectors)
        if exact:
            return api.Sum(np.sum([vector.astype(np.float64) for vector in vectors], axis=0), SITES, round_)
        encoding = plan_encoding(length=vectors[0].size, bound=self.shape.bound, sites=SITES, bits=32)
        words = np.sum([encode(vector, encoding) for vector in vectors], axis=0, dtype=encoding.dtype)
        return api.Sum(decode_sum(words, encoding, SITES)[: vectors[0].size], SITES, round_)

    def advance(self, summed: api.Sum) -> None:
        self.state = self.method.advance(self.document, self.shape, self.state, summed)
        assert (self.state.dtype, self.state.size) == (np.float32, self.shape.state.size)

    def products(self, adapters: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the plain mean of the products of *adapters*, by module, in float64."""
        found: dict[str, np.ndarray] = {}
        for adapter in adapters:
            tensors = _factors.parts(self.whole, adapter.astype(np.float64))
            for module in _factors.modules(self.whole):
                product = tensors[module + _factors.UP] @ tensors[module + _factors.DOWN]
                found[module] = found.get(module, 0.0) + product / len(adapters)
        return found

    def heads(self, adapters: list[np.ndarray]) -> np.ndarray:
        """Return the plain mean of the heads."""
        start = _factors.only(self.whole, _factors.DOWN).size + _factors.only(self.whole, _factors.UP).size
        return np.mean([adapter[start:].astype(np.float64) for adapter in adapters], axis=0)


def worst(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


def test_every_method_is_known_everywhere() -> None:
    """Found in the package, allowed in a recipe, a document's type, and told to people who approve."""
    found = {module.name for module in pkgutil.iter_modules(computations.__path__)}
    public = {name for name in found if not name.startswith("_") and name not in ("api", "bundle")}
    assert {name for name in public if api.load(name).SITE_HALF == "loss"} == set(api.METHODS)
    assert get_args(Recipe.model_fields["computation"].annotation) == api.METHODS
    assert all(document_type(name) is Recipe for name in api.METHODS)
    assert explanation._COMPUTATIONS.keys() >= set(api.METHODS)


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
    assert "it must be at least 12" in problem(tiny["esm"], "sketch", adapter={"sketch_width": 11})
    # the positive control: four sites in a width for two miss what the mean is
    narrow = document.model_copy(update={"adapter": document.adapter.model_copy(update={"sketch_width": 8})})
    source = np.random.default_rng(0)
    changes = [source.normal(0, 1, (48, 4)) @ source.normal(0, 1, (4, 32)) for _ in range(4)]
    y = np.mean([change @ sketch.omega(narrow, 1, "layer", 32) for change in changes], axis=0)
    z = np.mean([sketch.psi(narrow, 1, "layer", 48) @ change for change in changes], axis=0)
    left, right = sketch.mean_product(narrow, "layer", np.zeros((48, 4)), np.zeros((4, 32)), y, z, 1)
    assert np.abs(left @ right - np.mean(changes, axis=0)).max() > 0.1


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
    from plasmid.models.tensors import read_floats

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


def lora(**changes: Any) -> dict[str, Any]:
    return {"rank": 4, "alpha": 8.0, "targets": ["query", "value"], "layers": 2} | changes


def test_what_the_methods_send_on_the_shipped_recipe_s_base(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("antiberty") is None:
        pytest.skip("the weights are not installed")
    monkeypatch.delenv("PLASMID_HOME", raising=False)
    document = load_recipe("tcr-covid").recipe
    base = ensure_model(document.model.base, revision=document.model.revision, digest=document.model.digest)
    head = sum(spec.size for spec in _factors.head_of(_factors.schema_of(document, base)))
    found = {name: size - head for name, size in sizes(document, base).items()}
    assert found["finetune"] == 4 * 8 * (512 + 512)
    assert found["ffa_lora"] == found["rolora"] == found["fedsvd"] == found["finetune"] // 2
    assert found["fedsb"] / found["finetune"] < 0.01  # 256 to 32,768
    assert found["sketch"] == 4 * (512 * 48 + (48 + 8 + 8) * 512)
    everywhere = {"rank": 8, "alpha": 16.0, "targets": ["all-linear"]}
    values = document.model_dump(mode="json")
    values["adapter"]["lora"] = everywhere
    whole = sizes(Recipe.model_validate(values), base)
    assert whole["fedsb"] / whole["finetune"] < 0.02  # the head included


# -- what cannot be --------------------------------------------------------------------------------

UNIT = {"unit": "record", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.5}


@pytest.mark.parametrize(
    ("method", "sections", "says"),
    [
        ("sketch", {"adapter": {"sketch_width": None}}, "is needed by computation: sketch"),
        ("rolora", {"adapter": {"sketch_width": 16}}, "means nothing with computation: rolora"),
        ("sketch", {"training": {"steps": 1}, "privacy": UNIT | {"mechanism": "dp-fedsgd"}}, "not linear"),
        ("rolora", {"federation": {"server": {"strategy": "FedAdam", "options": {}}}}, "use FedAvg"),
        ("fedsvd", {"federation": {"server": {"strategy": "FedAvgM", "options": {}}}}, "use FedAvg"),
        ("finetune", {"training": {"steps": 1, "proximal": 0.1}}, "means nothing with one step"),
    ],
)
def test_what_a_method_cannot_do_is_a_contradiction(
    method: str, sections: dict[str, Any], says: str, tiny: dict[str, BaseModel]
) -> None:
    assert says in problem(tiny["esm"], method, **sections)


def problem(base: BaseModel, method: str, **sections: dict[str, Any]) -> str:
    """Return the one contradiction of a recipe."""
    with pytest.raises(ValidationError) as caught:
        recipe(base, method, **sections)
    ((_, what),) = [found for error in caught.value.errors() for found in error["ctx"]["problems"]]
    return str(what)


@pytest.mark.parametrize("method", ["ffa_lora", "fedsb"])
def test_methods_that_move_by_the_mean_take_any_server_optimiser(
    method: str, tiny: dict[str, BaseModel]
) -> None:
    assert recipe(tiny["esm"], method, federation={"server": {"strategy": "FedAdam", "options": {}}})


@pytest.mark.parametrize(
    ("name", "why", "nearest"),
    [
        ("krum", "compares single contributions", "finetune, whose update_clip"),
        ("median", "compares single contributions", "finetune, whose update_clip"),
        ("flora", "stacks every site's factors", "sketch, which recovers the mean product"),
        ("FedEx-LoRA", "needs every site's product", "sketch, which recovers the mean product"),
        ("fedsa", "sites here keep nothing", "rolora or ffa_lora"),
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


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in api.METHODS if name != "sketch"])
def test_a_mean_gradient_is_a_step_of_sgd_on_what_learned(name: str, tiny: dict[str, BaseModel]) -> None:
    """The sum of gradients goes the way of a change; one of the change's size is one of minus rate over B."""
    rates = {"steps": 1, "batch": 16, "lora_lr": 0.5, "head_lr": 0.25, "covariate_lr": 0.125}
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
                {"head.weight": 0.25, "head.bias": 0.25, "head.covariates": 0.125}.get(spec.name, 0.5),
            )
            for spec in rounds.whole.tensors
        ]
    )
    expected = before - rate * mean / 16
    assert worst(rounds.products([rounds.adapter()]), rounds.products([expected])) < 1e-6
    assert np.abs(rounds.heads([rounds.adapter()]) - rounds.heads([expected])).max() < 1e-6
    if name != "fedsvd":  # there the factors turn
        assert np.abs(rounds.adapter() - expected).max() < 1e-6


# -- the digest ------------------------------------------------------------------------------------


def test_the_digest_covers_what_a_method_shares(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from plasmid.recipes import digest as digests

    covered = {name: set(digests._sources(name)) for name in (*api.METHODS, "mean", "ping")}
    assert covered["mean"] == {"mean"}
    assert covered["finetune"] == {"finetune", "_factors"}
    assert covered["rolora"] == {"rolora", "finetune", "_factors"}
    assert covered["fedsvd"] == {"fedsvd", "finetune", "_factors", "_algebra"}
    document = recipe(tiny["esm"], "fedsvd").model_dump(mode="json")
    whole = recipe_digest(document, "fedsvd")
    original = digests._path
    for name in ("_algebra", "_factors", "finetune", "fedsvd"):
        monkeypatch.setattr(
            digests,
            "_path",
            lambda asked, name=name: _Longer(original(asked)) if asked == name else original(asked),
        )
        assert recipe_digest(document, "fedsvd") != whole, name


class _Longer:
    """A file with a comment more."""

    def __init__(self, path: Any) -> None:
        self._path = path

    def read_bytes(self) -> bytes:
        return bytes(self._path.read_bytes()) + b"# more\n"


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
from plasmid.models.adapter import nothing
"""
    assert _imported(source) == {"_factors", "mean", "_algebra", "ping", "counts"}
