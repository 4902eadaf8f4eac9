"""``plasmid compare``: which cells there are, which are kept, what the table says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.client.verbs import compare
from plasmid.core.errors import RunFailed, UsageError
from plasmid.experiments import comparison
from plasmid.experiments import grid as cells
from plasmid.experiments.comparison import figure
from support.federation.no_ray import here
from support.tiny.tiny_task import tiny_csv, tiny_recipe

RUNNER = CliRunner()
BASELINES = {
    "local": {"a": 0.5, "b": 0.7, "c": 0.6},
    "central": 0.9,
    "simple": {"central": 0.8, "local": 0.75},
}


@pytest.fixture
def recipe(tiny: dict[str, BaseModel], tmp_path: Path) -> Path:
    """A tiny recipe in a file, its sites in ``sites`` and its test in ``test.csv`` beside it."""
    document = tiny_recipe(tiny["bert"], steps=1).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    (tmp_path / "sites").mkdir()
    for seed, site in enumerate("abc"):
        (tmp_path / "sites" / f"{site}.csv").write_text(tiny_csv(40, seed))
    (tmp_path / "test.csv").write_text(tiny_csv(40, 9))
    return tmp_path / "recipe.yaml"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, model_home: Path) -> list[int | None]:
    """How often a cluster was opened; it is in this process, and baselines are made up."""
    found: list[int | None] = []
    monkeypatch.setenv("PLASMID_HOME", str(model_home))
    monkeypatch.setattr(comparison, "local_cluster", here(found))
    monkeypatch.setattr(comparison, "run_baselines", lambda *_, **__: BASELINES)
    return found


def files(recipe: Path) -> list[str]:
    folder = recipe.parent
    return [
        "--sites",
        str(folder / "sites"),
        "--eval",
        str(folder / "test.csv"),
        "--out",
        str(folder / "out"),
    ]


def ask(recipe: Path, *more: str) -> dict[str, Any]:
    done = RUNNER.invoke(compare.app, [str(recipe), *files(recipe), *more, "--format", "json"])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (answer["status"] == "ok") == (done.exit_code == 0), done.output
    return answer


def test_what_cannot_be_simulated_is_refused_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    audited = ("--set", "privacy.audit={canaries: 10}")
    done = RUNNER.invoke(compare.app, ["tcr-covid-dp", *audited, "--format", "json"])
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "recipe.not_simulated"


def test_a_grid_is_run_once_and_resumed_where_it_was_killed(
    recipe: Path, opened: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest: Callable[..., Any] = comparison.simulate
    computed: list[str] = []

    def dies_at_the_third(cluster: Any, resolved: Any, *rest: Any, **named: Any) -> Any:
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(resolved.recipe.computation)
        return honest(cluster, resolved, *rest, **named)

    monkeypatch.setattr(comparison, "simulate", dies_at_the_third)
    asked = ("--methods", "finetune,ffa_lora", "--seeds", "0,1", "--workers", "1")
    assert ask(recipe, *asked)["error"]["code"] == "usage.interrupted"
    monkeypatch.setattr(comparison, "simulate", honest)
    data = ask(recipe, *asked)["data"]
    assert computed == ["finetune", "finetune"]
    assert (data["computed"], data["kept"]) == (4, 2)  # two cells and two seeds' baselines; two cells
    again = ask(recipe, *asked)["data"]
    assert (again["computed"], again["kept"], opened) == (0, 6, [1, 1])
    assert again["rows"] == data["rows"]
    first, second = data["rows"]
    assert [row["method"] for row in data["rows"]] == ["finetune", "ffa_lora"]
    assert first["bytes_up"] > second["bytes_up"]  # half the factors
    assert first["mean"] == pytest.approx(np.mean(first["values"]))
    assert data["baselines"][2]["values"] == [pytest.approx(0.6)] * 2
    out = recipe.parent / "out"
    table = (out / "compare.md").read_text()
    assert f"| ffa_lora | {second['mean']:.3f} |" in table
    assert "no gateways" in table
    shown = RUNNER.invoke(compare.app, [str(recipe), *files(recipe), *asked]).stdout
    assert [line for line in shown.splitlines() if line.startswith("|")] == [
        line for line in table.splitlines() if line.startswith("|")
    ]
    assert json.loads((out / "compare.json").read_bytes())["rows"] == data["rows"]
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (out / "compare.svg").read_bytes()
    # another row at one site, and nothing is known any more
    with (recipe.parent / "sites" / "a.csv").open("a") as file:
        file.write("CASS,a,no\n")
    assert ask(recipe, *asked, "--no-baselines")["data"]["kept"] == 0


def test_a_cell_that_fails_is_told_and_the_others_go_on(
    recipe: Path, opened: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest: Callable[..., Any] = comparison.simulate

    def fails(cluster: Any, resolved: Any, *rest: Any, **named: Any) -> Any:
        if resolved.recipe.seed == 1:
            raise RunFailed("run.not_finite", "a loss is not a finite number.")
        return honest(cluster, resolved, *rest, **named)

    monkeypatch.setattr(comparison, "simulate", fails)
    data = ask(recipe, "--seeds", "0,1", "--no-baselines", "--set", "training.lora_lr=2e-3")["data"]
    assert [(one["cell"], one["code"]) for one in data["failed"]] == [
        ("finetune, epsilon none, seed 1", "run.not_finite")
    ]
    assert [len(row["values"]) for row in data["rows"]] == [1]
    assert data["rows"][0]["half_width"] is None


def test_the_interval_is_student_s_over_seeds() -> None:
    # t(0.975, 2) = 4.302653, times 0.1 / sqrt(3)
    assert figure("x", [0.7, 0.8, 0.9]).half_width == pytest.approx(0.2484138, abs=1e-6)
    assert figure("x", [0.7]).half_width is None


def test_cells_are_documents_of_the_grid() -> None:
    found = cells.grid(
        "tcr-covid-dp", {"training.optimizer": "sgd"}, methods=["finetune", "ffa_lora"], epsilons=[None, 3.0],
        seeds=[0, 5], sites=6,
    )  # fmt: skip
    assert [(one.method, one.epsilon, one.seed) for one in found[:4]] == [
        ("finetune", None, 0), ("finetune", None, 5), ("finetune", 3.0, 0), ("finetune", 3.0, 5),
    ]  # fmt: skip
    without, under = found[0].resolved.recipe, found[2].resolved.recipe
    assert (without.privacy.unit, without.privacy.epsilon, without.privacy.record_clip) == (
        "none",
        None,
        None,
    )
    assert (under.privacy.unit, under.privacy.epsilon, under.privacy.delta) == ("record", 3.0, 1e-5)
    assert without.training == under.training
    assert len({one.resolved.digest for one in found}) == 8
    sketch = cells.grid("tcr-covid", {}, methods=["sketch"], epsilons=[], seeds=[0], sites=6)
    assert sketch[0].resolved.recipe.adapter.sketch_width == 48


def test_what_no_cell_can_be_is_refused_all_at_once(recipe: Path, opened: list[int | None]) -> None:
    with pytest.raises(UsageError) as caught:
        cells.grid("tcr-covid", {}, methods=[], epsilons=[8.0], seeds=[0], sites=6)
    assert "has no privacy unit" in caught.value.message
    with pytest.raises(UsageError) as caught:
        cells.grid("tcr-covid", {}, methods=["krum", "flora", "finetune"], epsilons=[], seeds=[0], sites=6)
    assert "krum, epsilon none" in caught.value.message
    assert "flora, epsilon none" in caught.value.message
    for wrong in (["--seeds", "0,,1"], ["--seeds", "1,1"], ["--seeds", "0.5"], ["--epsilons", "nan"]):
        assert ask(recipe, *wrong)["error"]["code"] == "usage.compare"
    assert opened == []


def test_a_cell_is_known_by_all_that_decides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = cells.Finished(tmp_path)
    key = kept.key("cell", "d" * 64, data="x", masked=False)
    kept.put(key, {"value": 0.5})
    assert kept.get(key) == {"key": key, "value": 0.5}
    others = {
        kept.key("cell", "e" * 64, data="x", masked=False),
        kept.key("cell", "d" * 64, data="y", masked=False),
    }
    monkeypatch.setattr(cells, "code_digest", lambda: "another")
    others.add(kept.key("cell", "d" * 64, data="x", masked=False))
    assert len(others - {key}) == 3
    assert all(kept.get(other) is None for other in others)
    (tmp_path / f"{key}.json").write_text('{"value": 0.9')  # not ours: it was written whole or not at all
    assert kept.get(key) is None


def test_the_code_that_decides_a_cell_is_there() -> None:
    import plasmid

    roots = [Path(root) for root in plasmid.__path__]
    assert [part for part in cells.CODE if not any((root / part).exists() for root in roots)] == []


# -- at the sites ----------------------------------------------------------------------------------

HOLDOUT = ("--set", "data.holdout={by: record, share: 0.4}")


def test_where_sites_keep_a_part_every_method_is_judged_at_the_sites(
    recipe: Path, opened: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []
    monkeypatch.setattr(
        comparison, "run_baselines", lambda _r, _t, test, **_: asked.append(test) or BASELINES
    )
    methods = ("--methods", "finetune,fedsa", "--seeds", "78")
    refused = ask(recipe, *methods)["error"]
    assert refused["code"] == "usage.compare"
    assert "by fedsa each site keeps a part" in refused["message"]
    assert "data.holdout=" in refused["hint"]
    assert opened == []
    data = ask(recipe, *methods, *HOLDOUT)["data"]
    assert (data["judged"], asked) == ("sites", [None])
    assert [row["method"] for row in data["rows"]] == ["finetune", "fedsa"]
    assert all(0.0 <= row["mean"] <= 1.0 for row in data["rows"])
    assert [row["what"] for row in data["baselines"]] == [
        "simple model, each site its own",
        "simple model, all data pooled",
        "each site alone",
        "central (all data in one place)",
    ]
    table = (recipe.parent / "out" / "compare.md").read_text()
    assert "of each site's own adapter on its rows held out, mean over the sites; seeds 78." in table
    # judged by a test it is another cell, and without fedsa it is judged so
    plain = ask(recipe, "--methods", "finetune", "--seeds", "78", *HOLDOUT)["data"]
    assert (plain["judged"], plain["kept"]) == ("test", 0)


def test_a_recipe_without_a_classical_model_has_no_such_rows(
    recipe: Path, opened: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {**BASELINES, "simple": {"central": None, "local": None}}
    monkeypatch.setattr(comparison, "run_baselines", lambda *_, **__: made)
    data = ask(recipe, "--seeds", "77")["data"]  # of which no other test has kept anything
    assert [row["what"] for row in data["baselines"]] == [
        "mean single site",
        "best single site",
        "central (all data in one place)",
    ]
