"""A simulation against real gateways: the same state, bit by bit where sites train one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import personal as personal_bench
from controller.conftest import NAMES, Scene
from controller.test_methods_run import ROWS, UNIT, csv, last_state, recipe, training
from controller.test_stopping_run import DIVERGES, STOP
from plasmid.bases.store import BaseModel
from plasmid.core.errors import PlasmidError, RecipeError
from plasmid.data.views.reading import read_table
from plasmid.recipes.load import ResolvedRecipe
from plasmid.simulation import worker
from plasmid.simulation.run import differences, simulate
from plasmid.worker import stacked_sites as together
from plasmid.worker.gain import mean_over_sites
from support.federation.attacks import refusal
from support.federation.no_ray import cluster
from support.tiny.tiny_task import tiny_csv

pytestmark = pytest.mark.usefixtures("at_home")
Make = Callable[..., Scene]


def tables(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    found = {name: folder / f"{name}.csv" for name in names}
    for path in found.values():
        path.write_text(csv(ROWS) + "\n")
    return found


@pytest.fixture
def resolved(tiny: dict[str, BaseModel]) -> ResolvedRecipe:
    return ResolvedRecipe(recipe(tiny["esm"], "ffa_lora"), Path("recipe.yaml"))


WEIGHTS = {"by": "public", "sites": {NAMES[0]: 5.0}}


@pytest.mark.parametrize(
    ("method", "masked", "weights"),
    [("finetune", False, None), ("fedsvd", True, None), ("finetune", False, WEIGHTS)],
)
def test_a_simulation_ends_in_the_state_of_a_run_over_real_gateways(
    method: str,
    masked: bool,
    weights: dict[str, Any] | None,
    scene: Make,
    start: Any,
    tiny: dict[str, BaseModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = training(scene, tiny["esm"], method, federation={"weights": weights})
    shown = start(made)
    real = last_state(made, shown)
    for site in NAMES[:3]:  # each re-runs the weighted step
        (entry,) = made.events(site, "countersigned")
        assert entry["rerun"] == made.job.document.rounds
    # A file has its columns in whatever order; a document that travelled has them by name.
    data = made.job.document.data
    columns = {name: data.columns[name] for name in sorted(data.columns, reverse=True)}
    given = made.job.document.model_copy(update={"data": data.model_copy(update={"columns": columns})})
    files, resolved = tables(tmp_path, NAMES[:3]), ResolvedRecipe(given, Path("recipe.yaml"))
    assert list(resolved.document["data"]["columns"]) == list(columns)
    at_once = simulate(cluster(1), resolved, files, None, masked=masked)
    np.testing.assert_allclose(at_once.state, real, atol=5e-5)
    monkeypatch.setattr(together, "FEW", 0)
    found = simulate(cluster(), resolved, files, None, masked=masked)
    assert np.array_equal(found.state, real)
    assert not np.array_equal(at_once.state, real)
    assert len(found.round_s) == made.job.document.rounds
    assert found.bytes_up == made.job.plan(3, 1, made.job.planned(3, 1, 0.0))["bytes_up_per_round"]


RANKS = {"sketch_width": 9, "ranks": {NAMES[0]: 1, NAMES[1]: 2}}


@pytest.mark.parametrize(
    ("method", "sections"),
    [
        ("fedsa", {}),
        ("finetune", {"adapter": {"personal": ["head"]}}),
        ("sketch", {"adapter": RANKS}),
        ("finetune", {"federation": {"rounds": 8, "stop": STOP}, "training": DIVERGES}),
    ],
    ids=["fedsa", "personal head", "ranks", "stop"],
)
def test_so_it_does_where_sites_differ_keep_something_or_end_early(
    method: str,
    sections: dict[str, Any],
    scene: Make,
    start: Any,
    tiny: dict[str, BaseModel],
    tmp_path: Path,
) -> None:
    made = training(scene, tiny["esm"], method, **sections)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    resolved = ResolvedRecipe(made.job.document, Path("recipe.yaml"))
    found = simulate(cluster(), resolved, tables(tmp_path, NAMES[:3]), None)
    assert np.array_equal(found.state, last_state(made, shown))
    assert len(found.round_s) == shown["result"]["rounds"]


HOLDOUT = {"by": "record", "share": 0.4, "seed": 1}


def personal_tables(folder: Path) -> dict[str, Path]:
    found = {site: folder / f"{site}.csv" for site in NAMES[:3]}
    for seed, path in enumerate(found.values()):
        path.write_text(tiny_csv(60, seed))
    return found


@pytest.mark.parametrize(("method", "personal"), [("fedsa", []), ("finetune", ["head"]), ("finetune", [])])
def test_each_site_s_own_adapter_is_judged_on_its_rows_held_out(
    method: str, personal: list[str], tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    """As benchmarks.personal has it, which sums without a ring and without actors."""
    sections: dict[str, Any] = {"adapter": {"personal": personal}, "data": {"holdout": HOLDOUT}}
    resolved = ResolvedRecipe(recipe(tiny["esm"], method, **sections), Path("recipe.yaml"))
    files = personal_tables(tmp_path)
    found = simulate(cluster(), resolved, files, None, at_sites=True)
    document, base = resolved.recipe, tiny["esm"]
    sites = {
        name: personal_bench.Site(document, base, read_table(path, document.contract), validate=False)
        for name, path in files.items()
    }
    assert {name: site.test.rows for name, site in sites.items()} != dict.fromkeys(sites, 0)
    *_, (_, own) = personal_bench.federated(document, base, sites)
    assert found.by_site == {
        name: pytest.approx(site.score(document, own[name]), abs=0.02) for name, site in sites.items()
    }
    assert found.value == pytest.approx(np.mean([*found.by_site.values()]))


def test_own_steps_are_taken_before_it_is_judged(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    steps = {"personal_steps": 40, "head_lr": 0.1, "covariate_lr": 0.1}
    sections: dict[str, Any] = {"data": {"holdout": HOLDOUT}, "training": {**steps, "lora_lr": 1e-2}}
    own = ResolvedRecipe(recipe(tiny["esm"], "sketch", adapter=RANKS, **sections), Path("recipe.yaml"))
    sections["training"]["personal_steps"] = 0
    none = ResolvedRecipe(recipe(tiny["esm"], "sketch", adapter=RANKS, **sections), Path("recipe.yaml"))
    files, actors = personal_tables(tmp_path), cluster()
    after, before = (simulate(actors, one, files, None, at_sites=True) for one in (own, none))
    assert np.array_equal(after.state, before.state)
    assert after.by_site != before.by_site
    assert after.value > before.value  # on rows of the same kind, which the site's own steps fit


def test_a_site_without_a_metric_is_left_out_and_all_without_one_end_it(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    sections: dict[str, Any] = {"data": {"holdout": HOLDOUT}}
    resolved = ResolvedRecipe(recipe(tiny["esm"], "fedsa", **sections), Path("recipe.yaml"))
    files = personal_tables(tmp_path)
    rows = files["alpha"].read_text().splitlines()
    files["alpha"].write_text("\n".join([rows[0], *(one for one in rows if one.endswith(",no"))]) + "\n")
    found = simulate(cluster(), resolved, files, None, at_sites=True)
    assert found.by_site["alpha"] is None
    assert found.value == pytest.approx(np.mean([*found.by_site.values()][1:]))
    with refusal("run.no_metric"):
        mean_over_sites(dict.fromkeys("abc"), "auc")
    nothing = {"holdout": HOLDOUT | {"share": 0.999}}
    resolved = ResolvedRecipe(recipe(tiny["esm"], "fedsa", data=nothing), Path("recipe.yaml"))
    with refusal("data.empty"):
        simulate(cluster(), resolved, files, None, at_sites=True)


def test_noise_is_drawn_anew_and_at_the_site(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    noised = ResolvedRecipe(recipe(tiny["esm"], "finetune", privacy=UNIT), Path("recipe.yaml"))
    files, actors = tables(tmp_path, NAMES[:3]), cluster()
    first, second = (simulate(actors, noised, files, None).state for _ in range(2))
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 1e-3


def test_a_round_is_over_the_sites_that_were_drawn_for_it(
    resolved: ResolvedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"site-{number}" for number in range(9))
    asked: list[list[str]] = []
    ahead: list[str] = []
    honest, read = worker.SimulatedSites._vectors, worker.SimulatedSites.read

    def noted(self: Any, engines: Any, round_: int, *rest: Any) -> Any:
        asked.extend([site, str(round_)] for site in engines)
        return honest(self, engines, round_, *rest)

    def noted_ahead(self: Any, sites: list[str]) -> Any:
        ahead.extend(sites)
        return read(self, sites)

    monkeypatch.setattr(worker.SimulatedSites, "_vectors", noted)
    monkeypatch.setattr(worker.SimulatedSites, "read", noted_ahead)
    files = tables(tmp_path, names)
    states = [simulate(cluster(), resolved, files, None, sites_a_round=4).state for _ in range(2)]
    assert np.array_equal(*states)
    drawn = [{site for site, round_ in asked[:8] if round_ == number} for number in ("1", "2")]
    assert [len(sites) for sites in drawn] == [4, 4]
    assert drawn[0] != drawn[1]
    assert sorted(ahead[:4]) == sorted(drawn[1])
    assert len(ahead) == 8  # nothing is read for a round that never comes
    assert sorted(asked[:8]) == sorted(asked[8:])


def test_the_base_model_is_loaded_once_for_all_sites_and_documents(
    resolved: ResolvedRecipe, tiny: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    honest = worker.Engine.__init__

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        loaded.append(arguments[0].computation)
        honest(self, *arguments, **named)

    monkeypatch.setattr(worker.Engine, "__init__", noted)
    monkeypatch.setattr(worker, "KEPT_SITES", 2)
    files, actors = tables(tmp_path, NAMES[:5]), cluster(1)
    other = resolved.recipe.model_copy(update={"computation": "rolora", "seed": 7})
    found = simulate(actors, resolved, files, files["alpha"])
    again = simulate(actors, ResolvedRecipe(other, Path("recipe.yaml")), files, files["alpha"])
    assert loaded == ["ffa_lora"]
    assert not np.array_equal(found.state, again.state)  # of another document all the same
    alone = simulate(cluster(1), ResolvedRecipe(other, Path("recipe.yaml")), files, files["alpha"])
    assert (alone.value, alone.state.tolist()) == (again.value, again.state.tolist())


def test_more_sites_than_are_kept_are_read_once_a_round(
    resolved: ResolvedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    honest = worker.training_table

    def noted(path: Path, *rest: Any) -> Any:
        read.append(path.stem)
        return honest(path, *rest)

    monkeypatch.setattr(worker, "training_table", noted)
    monkeypatch.setattr(worker, "KEPT_SITES", 2)
    simulate(cluster(1), resolved, tables(tmp_path, NAMES[:5]), None)
    assert sorted(read) == sorted(NAMES[:5] * resolved.recipe.rounds)


def test_a_site_s_error_comes_back_with_its_code_and_no_cell(
    resolved: ResolvedRecipe, tmp_path: Path
) -> None:
    files = tables(tmp_path, NAMES[:3])
    files["beta"].write_text("sequence,gene,label\nSECRETW9,a,no\n")
    with pytest.raises(PlasmidError) as caught:
        simulate(cluster(), resolved, files, None)
    assert caught.value.code.startswith("data.")
    assert "SECRETW9" not in str(caught.value.as_dict())


def test_what_only_a_real_run_can_do_is_refused(resolved: ResolvedRecipe, tmp_path: Path) -> None:
    audited = resolved.recipe.model_dump(mode="json")
    audited["privacy"]["audit"] = {"canaries": 10, "max_audited_epsilon": 8.0}
    document = type(resolved.recipe).model_validate(audited)
    with pytest.raises(RecipeError) as caught:
        simulate(cluster(), ResolvedRecipe(document, Path("recipe.yaml")), tables(tmp_path, NAMES[:3]), None)
    assert caught.value.code == "recipe.not_simulated"
    assert "--set privacy.audit=null" in caught.value.message
    with pytest.raises(RecipeError) as caught:
        simulate(cluster(), resolved, tables(tmp_path, NAMES[:2]), None)
    assert caught.value.code == "recipe.too_few_sites"
    weighted = resolved.recipe.model_dump(mode="json")
    weighted["federation"]["weights"] = {"by": "public", "sites": {"nobody": 2.0}}
    document = type(resolved.recipe).model_validate(weighted)
    with pytest.raises(RecipeError) as caught:
        simulate(cluster(), ResolvedRecipe(document, Path("recipe.yaml")), tables(tmp_path, NAMES[:3]), None)
    assert caught.value.code == "recipe.site_unknown"


def test_what_is_left_out_is_said() -> None:
    said = differences(sites=1000, a_round=20, masked=False, unit="record")
    assert "no gateways" in said[0]
    assert "not masked" in said[1]
    assert said[2].startswith("20 of 1000 sites took part in each round")
    assert "declare their rows" in said[3]
    assert any(
        "at most 64 sites" in one for one in differences(sites=80, a_round=80, masked=False, unit="none")
    )
    assert differences(sites=6, a_round=6, masked=True, unit="none")[1].startswith(
        "Every round's sum was masked"
    )
