"""The baselines' processes, with a child that only plays its part; and the real one, slowly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plasmid.adapters.adapter import initial_state
from plasmid.bases.catalogue import get
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, RunFailed
from plasmid.data.table import concatenate
from plasmid.data.views.reading import training_table
from plasmid.experiments import baselines
from plasmid.experiments.baseline_child import Bench
from plasmid.experiments.baselines import run_baselines
from plasmid.experiments.simple import fit, score
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.worker.engine import Engine
from plasmid.worker.gain import held_table
from support.tiny.tiny_task import tiny_csv, tiny_recipe

CHILD = """
import json, os, sys, time
header = json.loads(sys.stdin.readline())
for line in sys.stdin:
    job = json.loads(line)
    if {fault!r} == "dies" and job["name"] == "alone/b":
        os._exit(9)
    if {fault!r} == "hangs":
        time.sleep(600)
    if {fault!r} == "refuses":
        error = {{"code": "data.empty", "message": "nothing there", "hint": ""}}
        print(json.dumps({{"type": "error", "error": error}}), flush=True)
        continue
    for done in range(0, job["steps"] + 1, 24):
        print(json.dumps({{"type": "progress", "done": done}}), flush=True)
    value = {{"central": 0.8, "local": 0.7}} if job["name"] == "simple" else job["steps"] / 1000
    print(json.dumps({{"type": "result", "value": value}}), flush=True)
"""


@pytest.fixture
def resolved() -> ResolvedRecipe:
    return load_recipe("tcr-covid", overrides={"federation.rounds": "16"})


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes every child one with the fault that it is given; holds the children."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def with_fault(fault: str) -> list[subprocess.Popen[bytes]]:
        def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            assert command[1:] == ["-m", "plasmid.experiments.baseline_child"]
            child = real([sys.executable, "-c", CHILD.format(fault=fault)], **options)
            started.append(child)
            return child

        monkeypatch.setattr(baselines.subprocess, "Popen", start)
        entry = get("antiberty")
        model = BaseModel(entry.id, entry.revision, entry.digest, Path("nowhere"), entry)
        monkeypatch.setattr(baselines, "ensure_model", lambda *_, **__: model)
        return started

    return with_fault


SITES = {"b": Path("b.csv"), "a": Path("a.csv"), "c": Path("c.csv")}


def test_steps_results_and_progress(resolved: ResolvedRecipe, play: Any) -> None:
    children = play("")
    seen: list[tuple[int, int]] = []
    result = run_baselines(resolved, SITES, Path("test.csv"), progress=lambda *now: seen.append(now))
    assert result == {
        "local": {"a": 0.048, "b": 0.048, "c": 0.048},
        "central": 0.144,
        "simple": {"central": 0.8, "local": 0.7},
    }
    assert list(result["local"]) == ["a", "b", "c"]
    assert seen[-1] == (288, 288)
    assert seen == sorted(seen)
    assert 1 <= len(children) <= 2
    assert all(child.returncode is not None for child in children)


@pytest.mark.parametrize(
    ("fault", "error", "what"),
    [
        ("dies", RunFailed, "'alone/b' ended with status 9"),
        ("refuses", DataError, "nothing there"),
    ],
)
def test_a_child_that_fails_ends_the_others(
    resolved: ResolvedRecipe, play: Any, fault: str, error: type[Exception], what: str
) -> None:
    children = play(fault)
    with pytest.raises(error, match=what):
        run_baselines(resolved, SITES, Path("test.csv"))
    assert all(child.returncode is not None for child in children)


def test_stop_ends_the_children_at_once(resolved: ResolvedRecipe, play: Any) -> None:
    children = play("hangs")
    started = time.monotonic()
    with pytest.raises(RunFailed) as caught:
        run_baselines(resolved, SITES, Path("test.csv"), should_stop=lambda: time.monotonic() > started + 0.5)
    assert caught.value.code == "run.stopped"
    assert time.monotonic() - started < 10
    assert all(child.returncode == -9 for child in children)


def child_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "plasmid.experiments.baseline_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_real_child_exits_when_its_input_closes() -> None:
    child = child_process()
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=20) == 1
    assert child.stdout is not None
    child.stdout.close()


def test_the_real_child_answers_an_error_without_a_cell(resolved: ResolvedRecipe, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("cdr3,v_gene,j_gene,label\nCANARY*,TRBV1*01,TRBJ1-1*01,1\n")
    entry = get("antiberty")
    header = {
        "document": resolved.document,
        "base": {"id": entry.id, "revision": "never-imported", "digest": entry.digest},
        "sites": {"a": str(table)},
        "eval": str(table),
    }
    with child_process() as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for message in (header, {"name": "central", "sites": ["a"], "steps": 1}):
            child.stdin.write(json.dumps(message).encode() + b"\n")
        child.stdin.flush()
        answer = json.loads(child.stdout.readline())
    assert answer["type"] == "error"
    assert answer["error"]["code"] == "model.not_imported"
    assert "CANARY" not in json.dumps(answer)


@pytest.mark.usefixtures("at_home")
def test_at_the_sites_each_is_judged_on_the_rows_held_out_there(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = tiny["esm"]
    document = tiny_recipe(base, steps=2).model_dump(mode="json")
    document["data"]["holdout"] = {"by": "record", "share": 0.4, "seed": 1}
    paths = {}
    for seed, site in enumerate("abc"):
        head, *rows = tiny_csv(60, seed).splitlines()
        kept = [row for row in rows if site != "c" or row.endswith(",no")]  # one label: no AUC there
        paths[site] = tmp_path / f"{site}.csv"
        paths[site].write_text("\n".join([head, *kept, ""]))
    header = {
        "document": document,
        "base": {"id": base.id, "revision": base.revision, "digest": base.digest},
        "sites": {site: str(path) for site, path in paths.items()},
        "eval": None,
    }
    bench = Bench(header)
    recipe = bench.recipe
    found = {
        name: bench.run({"name": name, "sites": sites, "steps": 4}, lambda *_: None)
        for name, sites in (("alone/a", ["a"]), ("alone/c", ["c"]), ("central", ["a", "b", "c"]))
    }
    assert found["alone/c"] is None
    train = training_table(paths["a"], recipe, tmp_path)
    held = held_table(paths["a"], recipe, tmp_path)
    assert train.rows + held.rows == 60
    assert train.rows == bench.sites["a"].rows
    assert not set(train.columns["sequence"]) & set(held.columns["sequence"])
    engine = Engine(recipe, base, train)
    pace = recipe.training.pace(recipe.rounds)
    after = engine.train(initial_state(engine.schema, 0), steps=len(pace), seed=recipe.seed, pace=pace)
    assert found["alone/a"] == engine.score(after, held.columns)
    assert 0.0 <= found["central"] <= 1.0
    simple = bench.run({"name": "simple", "sites": ["a", "b", "c"], "steps": 0}, None)
    pooled = fit(recipe, concatenate(bench.sites.values()))
    each = [score(recipe, pooled, bench.held[site]) for site in "ab"]
    assert simple["central"] == pytest.approx(sum(each) / 2)
    own = [score(recipe, fit(recipe, bench.sites[site]), bench.held[site]) for site in "ab"]
    assert simple["local"] == pytest.approx(sum(own) / 2)


@pytest.mark.slow
def test_the_real_baselines_on_a_small_part_of_tcr_covid(tmp_path: Path) -> None:
    resolved = load_recipe("tcr-covid", overrides={"federation.rounds": "1", "training.steps": "2"})
    sites = {}
    for name in ("donor_1886", "donor_3646", "donor_7736"):
        lines = (resolved.folder / "data" / f"{name}.csv").read_text().splitlines()
        sites[name] = tmp_path / f"{name}.csv"
        sites[name].write_text("\n".join([lines[0], *lines[1::10]]) + "\n")
    first = run_baselines(resolved, sites, sites["donor_1886"])
    assert first == run_baselines(resolved, sites, sites["donor_1886"])
    assert list(first["local"]) == list(sites)
    assert all(0.3 < value < 1 for value in [*first["local"].values(), first["central"]])


def test_at_the_sites_own_steps_count(tiny: dict[str, BaseModel]) -> None:
    """Whoever trains alone has as many steps as a site that takes part and goes on by itself."""
    document = tiny_recipe(tiny["esm"], steps=2)
    training = document.training.model_copy(update={"personal_steps": 5})
    own = ResolvedRecipe(document.model_copy(update={"training": training}), Path("recipe.yaml"))
    rounds = document.rounds
    jobs = {job["name"]: job["steps"] for job in baselines._jobs(own, SITES, at_sites=True)}
    assert (jobs["alone/a"], jobs["central"]) == (2 * rounds + 5, 3 * (2 * rounds + 5))
    jobs = {job["name"]: job["steps"] for job in baselines._jobs(own, SITES, at_sites=False)}
    assert (jobs["alone/a"], jobs["central"]) == (2 * rounds, 3 * 2 * rounds)
