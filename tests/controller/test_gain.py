"""Each site learns what an adapter is worth to it, and the others how many gain: a histogram from one sum."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controller.conftest import NAMES, Scene
from controller.test_methods_run import recipe
from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.client.evaluation import lines
from plasmid.computations import gain
from plasmid.computations.api import given_digest
from plasmid.core.errors import RecipeError
from plasmid.data.snapshot import Snapshot
from plasmid.gateway.explanation import explain
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.messages import Planned
from plasmid.recipes.gain import GainDocument, gain_from_recipe
from plasmid.worker.engine import Engine
from plasmid.worker.gain import held_rows
from support.federation.in_worker import Workers
from support.hospital.snapshots import snapshot_of
from support.tiny.tiny_task import tiny_table

pytestmark = pytest.mark.usefixtures("at_home")
Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]

SITES = NAMES[:3]
HOLDOUT = {"data": {"holdout": {"by": "record", "share": 0.4, "seed": 1}}}
TABLES = {site: tiny_table(80, seed) for seed, site in enumerate(SITES)}


def csv(site: str) -> str:
    rows = [f"{row['sequence']},{row['gene'] or 'NA'},{row['label']}" for row in TABLES[site].records()]
    return "\n".join(["sequence,gene,label", *rows]) + "\n"


def asked(base: BaseModel, given: np.ndarray, **changes: Any) -> GainDocument:
    sections = HOLDOUT | changes.pop("sections", {})
    trained_by = recipe(base, changes.pop("method", "finetune"), **sections)
    lora, head = trained_by.adapter.lora, trained_by.head()
    of: dict[str, Any] = {"lora": lora, "head": head, "base": base.digest, "given": given_digest(given)}
    return gain_from_recipe(trained_by, **of | changes)


def good_adapter(base: BaseModel) -> np.ndarray:
    """Return an adapter that has learned the task from many rows of nobody here."""
    engine = Engine(recipe(base, "finetune"), base, tiny_table(200, 99), device="cpu")
    return engine.train(initial_state(engine.schema, 0), steps=60, seed=0)


def give(made: Scene, given: np.ndarray) -> None:
    body = given.astype("<f4").tobytes()
    chunk = given_digest(np.frombuffer(body, "<f4"))
    made.link.bodies.take_given("ada", given_digest(given), 0, len(body), body, chunk)


def run(
    scene: Make, base: BaseModel, document: GainDocument, given: np.ndarray, **settings: Any
) -> tuple[Scene, Workers]:
    workers = Workers(document, base, TABLES)
    tables = {site: csv(site) for site in SITES}
    made = scene(3, document, admitted=False, compute=workers.compute, tables=tables, **settings)
    give(made, given)
    for gateway in made.federation.gateways.values():  # as if it had come of a run that all took part in
        gateway.audit.write("countersigned", run="run-8", adapter=given_digest(given))
    return made, workers


def own_figures(made: Scene, site: str) -> dict[str, Any]:
    path = made.federation.home(site).personal / made.federation.run / "gain.json"
    return dict(json.loads(path.read_text()))


def test_the_sum_counts_sites_and_each_site_sees_its_own_figure(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    base = tiny["bert"]
    given = good_adapter(base)
    document = asked(base, given)
    made, workers = run(scene, base, document, given)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    answer = shown["result"]["answer"]
    figures = {site: own_figures(made, site) for site in SITES}
    for site, found in figures.items():
        # recomputed by hand: the rows that the recipe holds out, and as many steps on the others
        held = held_rows(Snapshot(snapshot_of(TABLES[site], document)), document)
        assert (found["rows"], found["steps"]) == (held.sum(), 4)
        assert 20 <= found["rows"] < 50
        assert found["gain"] == pytest.approx(found["adapter"] - found["alone"])
        (entry,) = made.events(site, "personal.gain")
        assert entry["gain"] == found["gain"]
        (cell,) = np.flatnonzero(workers.vectors[site, 1])
        assert workers.vectors[site, 1][cell] == 1.0
    gains = sorted(found["gain"] for found in figures.values())
    assert gains[0] > 0.1  # 4 steps alone teach little
    assert (answer["answered"], answer["gaining"], answer["cannot_say"]) == (3, 3, 0)
    assert answer["median"] == [0.1, None]
    assert answer["counts"] == [0] * 9 + [3]
    # no figure of a site, and no name, is in what the coordinator has
    assert all(str(found["gain"])[:6] not in json.dumps(shown["result"]) for found in figures.values())
    assert lines(answer | {"noise_std": 0.0})[0].startswith("3 of 3 sites gain by the adapter, in auc")


def test_a_site_without_an_adapter_of_its_own_cannot_say(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    base = tiny["bert"]
    given = good_adapter(base)
    document = asked(base, given, method="fedsa", run="run-9")
    made, _ = run(scene, base, document, given)
    gateway = made.federation.gateways["alpha"]
    facts = {"site": "alpha", "digest": "0" * 64, "rounds": 2, "steps": 0}
    gateway.personal.finish(gateway.audit, "run-9", recipe(base, "fedsa"), base, given, facts)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    answer = shown["result"]["answer"]
    assert (answer["answered"], answer["gaining"], answer["cannot_say"]) == (1, 1, 2)
    assert own_figures(made, "alpha")["gain"] > 0.1
    assert own_figures(made, "beta")["gain"] is None


def test_under_a_unit_the_histogram_is_noised_and_each_site_charged(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    base = tiny["bert"]
    given = good_adapter(base)
    document = asked(base, given, epsilon=100.0, delta=1e-3, grid=(0.0,))
    budgets = {"default": {"unit": "record", "epsilon": 100.0, "delta": 1e-3}}
    made, _ = run(scene, base, document, given, public_size=80, budgets=budgets)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    result = shown["result"]
    assert 0.05 < result["noise_std"] < 0.25 * 3
    assert abs(result["answer"]["gaining"] - 3) <= 2
    for site in SITES:
        assert made.federation.gateways[site].ledger.summary()["default"].epsilon == 100
    told = lines(result["answer"] | {"noise_std": result["noise_std"]})
    assert told[-1].startswith("each number of sites carries noise of a standard deviation of 0.")


def test_without_a_unit_a_site_judges_no_adapter_that_it_did_not_help_to_make(
    scene: Make, tiny: dict[str, BaseModel]
) -> None:
    """One that somebody has made could ask about a single row."""
    base = tiny["bert"]
    given = good_adapter(base)
    budget = {"default": {"unit": "record", "epsilon": 400.0, "delta": 1e-3}}
    settings: dict[str, Any] = {
        "admitted": False,
        "tables": {site: csv(site) for site in SITES},
        "public_size": 80,
        "budgets": budget,
    }
    made = scene(3, asked(base, given), **settings)
    answer = made.federation.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "policy.gain")
    assert made.events("alpha", "view.opened") == []
    # who approves is told in words what it is, and that 4 steps are trained here
    facts = explain(made.federation.home("alpha"), None, made.job.document, made.federation.project)
    told = {fact.name: fact.value for fact in facts}
    assert told["computation"].startswith("gain: an adapter and one trained here alone are compared")
    assert told["training"].startswith("4 steps on ")
    made.federation.gateways["alpha"].audit.write("countersigned", run="run-8", adapter=given_digest(given))
    assert made.federation.admit("alpha").accepted


# -- the histogram ---------------------------------------------------------------------------------


def test_a_gain_is_in_the_cell_below_the_edge_that_it_reaches(tiny: dict[str, BaseModel]) -> None:
    document = asked(tiny["bert"], np.zeros(4, np.float32), grid=(-0.1, 0.0, 0.1))
    cells = [int(np.argmax(gain.vector(document, one))) for one in (-0.2, -0.1, 0.0, 1e-9, 0.1, 0.2, None)]
    assert cells == [0, 0, 1, 2, 2, 3, 4]
    state = np.array([9.0, 9.0, 1, 0, 2, 2, 1])  # an adapter of two numbers, then cells
    found = gain.result(document, state, 6)
    assert (found["answered"], found["gaining"], found["cannot_say"]) == (5, 4, 1)
    assert found["median"] == [0.0, 0.1]
    assert gain.result(document, np.array([1, 1, 1, 1, 0]), 4)["median"] == [-0.1, 0.1]
    assert gain.result(document, np.array([0, 0, 0, 0, 4]), 4)["median"] is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sections": {"data": {"holdout": None}}}, "holds out no rows, on which alone"),
        ({"grid": (-0.1, 0.1)}, "one of them is 0"),
        ({"grid": (0.0, np.inf)}, "one of them is 0"),
        ({"method": "fedsa", "run": "../run-9"}, "is no run's id"),
        ({"method": "fedsa"}, "lacks what each site keeps"),
        ({"run": "run-9"}, "a site keeps no adapter of its own by it"),
        (
            {
                "sections": {
                    "privacy": {"unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5}
                    | {"record_clip": 1.0}
                }
            },
            "it protects one record, and so must what is asked",
        ),
    ],
)
def test_what_has_no_answer_is_refused_before_a_run(
    changes: dict[str, Any], says: str, tiny: dict[str, BaseModel]
) -> None:
    with pytest.raises(RecipeError) as caught:
        asked(tiny["bert"], np.zeros(4, np.float32), **changes)
    assert says in str(caught.value)
    assert caught.value.code == "recipe.evaluation"


def test_noise_that_would_leave_no_answer_is_refused_by_the_plan_with_its_figures(
    tiny: dict[str, BaseModel],
) -> None:
    base = tiny["bert"]
    planned = Planned(sites=6, c=1, noise_rate=1.0)

    def plan(sites: int, **changes: Any) -> float:
        document = asked(base, np.zeros(4, np.float32), delta=1e-3, **changes)
        shape = gain.shape(document, base)
        return attempt_plan(document, shape, sites=sites, c=1, planned=planned).noise_std

    with pytest.raises(RecipeError) as caught:
        plan(6, epsilon=1.0)
    said = str(caught.value)
    assert caught.value.code == "recipe.noise_swamps"
    assert "epsilon 1 asks for noise of a standard deviation of" in said
    assert "over 6 sites more than 0.67 would leave no answer" in said
    assert 0.0 < plan(6, epsilon=8.0, grid=(0.0,)) < 1.5
    with pytest.raises(RecipeError, match="would leave no answer"):
        plan(6, epsilon=8.0)  # more cells, of which several are added up


def test_one_record_may_move_the_whole_vector_and_the_noise_is_for_that(tiny: dict[str, BaseModel]) -> None:
    from plasmid.planner.attempts import sensitivity

    document = asked(tiny["bert"], np.zeros(4, np.float32), epsilon=8.0, delta=1e-3)
    moved = gain.vector(document, 0.2) - gain.vector(document, -0.2)
    assert sensitivity(document, gain.shape(document, tiny["bert"])) == 2.0 > np.linalg.norm(moved)
