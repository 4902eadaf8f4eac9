"""Each LoRA method from admission to a countersigned adapter: real workers' vectors, real gateways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.conftest import NAMES, Scene
from controller.test_countersign import fetched
from plasmid.adapters.artifact import read_adapter
from plasmid.bases.store import BaseModel
from plasmid.computations import _factors, api
from plasmid.computations._personal import personal_of
from plasmid.protocol.body import unpack
from plasmid.recipes.schema import Recipe
from support.federation.in_worker import Workers
from support.tiny import own_method
from support.tiny.tiny_task import tiny_csv, tiny_recipe, tiny_table

pytestmark = pytest.mark.usefixtures("at_home")
Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]

ROWS = 40
UNIT = {"unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.0}


def recipe(base: BaseModel, method: str, **sections: dict[str, Any]) -> Recipe:
    values = tiny_recipe(base, steps=2).model_dump(mode="json")
    values["computation"] = method
    values["adapter"]["sketch_width"] = 12 if method == "sketch" else None
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


def csv(rows: int) -> str:
    return tiny_csv(rows).rstrip("\n")


def training(scene: Make, base: BaseModel, method: str, **sections: dict[str, Any]) -> Scene:
    """Return a run of three sites whose vectors a worker's session computes, one for all of a rank."""
    document = recipe(base, method, **sections)
    workers = Workers(document, base, dict.fromkeys(NAMES[:3], tiny_table(ROWS)))
    given: dict[str, Any] = {}
    if document.privacy.unit != "none":
        budget = {"unit": "record", "epsilon": 8.0, "delta": 1e-5}
        given = {"public_size": ROWS, "budgets": {"default": budget}}
    tables = dict.fromkeys(NAMES[:3], csv(ROWS))
    return scene(3, document, admitted=False, compute=workers.compute, tables=tables, **given)


def last_state(made: Scene, shown: dict[str, Any]) -> np.ndarray:
    body = made.link.bodies.published(shown["result"]["state"]).read_bytes()
    shape = made.job.shape
    return unpack(body, "state", length=shape.state.size, dtype=shape.dtype)


@pytest.mark.parametrize("method", api.METHODS)
def test_a_run_ends_with_an_adapter_that_every_site_followed(
    method: str, scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = tiny["esm"]
    made = training(scene, base, method)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    for site in NAMES[:3]:
        (entry,) = made.events(site, "countersigned")
        assert (entry["contributed"], entry["rerun"]) == (2, 2)
    found = fetched(made, shown, tmp_path / "adapter")
    assert (found.server_step, len(found.countersigned)) == ("re-run", 3)
    # the files hold the state, as the method reads it, and the adapter has learned
    document: Any = made.job.document
    whole = _factors.schema_of(document, base)
    state = api.method(document).adapter(document, base, last_state(made, shown))
    schema, released = read_adapter(tmp_path / "adapter").on(base)
    assert schema == whole
    assert np.array_equal(released, state)
    own = {spec.name for spec in personal_of(document, base).tensors}
    parts = _factors.parts(whole, released)
    assert {name for name, value in parts.items() if not value.any()} == own  # nobody but a site has those


def test_a_method_that_a_package_brings_is_countersigned_like_ours(
    scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_method.install(tmp_path, monkeypatch)
    try:
        made = training(scene, tiny["esm"], own_method.NAME)
        shown = start(made)
        assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
        found = fetched(made, shown, tmp_path / "adapter")
        assert (found.server_step, len(found.countersigned)) == ("re-run", 3)
    finally:
        monkeypatch.undo()
        own_method.forget()


@pytest.mark.parametrize("method", ["ffa_lora", "fedsvd"])
def test_a_run_under_a_privacy_unit(
    method: str, scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    made = training(scene, tiny["esm"], method, privacy=UNIT)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    assert made.job.shape.schema.size < _factors.schema_of(made.job.document, tiny["esm"]).size
    for site in NAMES[:3]:
        (entry,) = made.events(site, "countersigned")
        assert (entry["rerun"], entry["epsilon"]) == (2, 8.0)
        assert made.federation.gateways[site].ledger.summary()  # charged once, for the whole run
    assert np.isfinite(last_state(made, shown)).all()


def test_a_wrong_step_of_a_method_is_found_by_every_site(
    scene: Make, start: Start, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that turns A by another rotation than the method's: the same product, another state."""
    from plasmid.coordinator import rounds as module

    made = training(scene, tiny["esm"], "fedsvd")
    honest = module.Rounds._publish

    def turned(rounds: Any, state: np.ndarray, *, last: bool = False) -> None:
        if rounds._summed:
            tensors = _factors.parts(made.job.shape.state, state.copy())
            for name, value in tensors.items():
                if name.endswith(_factors.DOWN):
                    value[:2] = value[1::-1].copy()
                if name.endswith(_factors.UP):
                    value[:, :2] = value[:, 1::-1].copy()
            state = _factors.joined(made.job.shape.state, tensors)
        honest(rounds, state, last=last)

    monkeypatch.setattr(module.Rounds, "_publish", turned)
    shown = start(made)
    assert shown["state"] == "FAILED"
    assert shown["error"]["message"].count("[protocol.step]") == 3


def test_sites_of_different_ranks_end_with_the_nearest_adapter_to_their_mean_product(
    scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    """In round 1 all begin alike, and what each sends has the rank that the recipe gives it."""
    base, ranks = tiny["esm"], {"alpha": 1, "beta": 2}
    made = training(scene, base, "sketch", adapter={"sketch_width": 7, "ranks": ranks})
    sent: dict[tuple[str, int], np.ndarray] = {}
    compute = made.link.compute

    def noted(site: str, manifest: Any) -> np.ndarray:
        vector = sent[site, manifest.round] = compute(site, manifest)
        return vector

    made.link.compute = noted
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    for site in NAMES[:3]:
        (entry,) = made.events(site, "countersigned")
        assert (entry["contributed"], entry["rerun"]) == (2, 2)
    assert fetched(made, shown, tmp_path / "adapter").server_step == "re-run"
    for site, rank in zip(NAMES[:3], (1, 2, 4), strict=True):
        vector = _factors.parts(made.job.shape.schema, sent[site, 1])
        (name, *_) = [name for name in vector if name.endswith("sketch_Z")]
        sizes = np.linalg.svd(vector[name].astype(np.float64))[1]
        assert (sizes > 1e-5 * sizes[0]).sum() == rank


def test_ranks_that_a_sketch_does_not_take_apart_end_the_run_before_it_begins(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    """Enough for three sites of the recipe's, but not for these three."""
    ranks = {"alpha": 1, "zeta": 1, "eta": 1}
    made = training(scene, tiny["esm"], "sketch", adapter={"sketch_width": 7, "ranks": ranks})
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "recipe.most_sites")
    assert "the ranks of the 3 sites that take part add up to 9" in shown["error"]["message"]
    assert made.events("alpha", "manifest") == []


def test_more_sites_than_a_sketch_takes_apart_end_the_run_before_it_begins(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    document = recipe(tiny["esm"], "sketch")
    made = scene(4, document, admitted=False, tables=dict.fromkeys(NAMES[:4], csv(ROWS)))
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "recipe.most_sites")
    assert "recovers the sum of 3 sites as the recipe has it, and 4 take part" in shown["error"]["message"]
    assert made.events("alpha", "manifest") == []
