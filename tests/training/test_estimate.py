"""Estimates: what is exact, what a probe measures, what is computed, and what is not said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.bases import catalogue, outline
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_header
from plasmid.cli.verbs.recipes import app
from plasmid.core.errors import PolicyRefused
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.planning import footprint
from plasmid.planning.checks import findings
from plasmid.planning.estimate import GATEWAY_BYTES, Estimate, budgets, estimate
from plasmid.planning.probe import Probe, probe
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.worker import engine
from support.tiny.tiny_task import tiny_recipe, tiny_table

pytestmark = pytest.mark.usefixtures("at_home")


def rows(path: Path, number: int = 40) -> Path:
    columns = tiny_table(number).columns
    lines = zip(*(columns[name] for name in ("sequence", "gene", "label")), strict=True)
    path.write_text(
        "\n".join(["sequence,gene,label", *(",".join(str(c or "NA") for c in one) for one in lines), ""])
    )
    return path


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    values = recipe.model_dump(mode="json")
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


def test_a_probe_is_a_real_worker_s_round(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    found = probe(tiny_recipe(tiny["bert"], steps=50), tiny["bert"], [rows(tmp_path / "a.csv")], threads=1)
    assert (found.parallel, found.threads, found.steps) == (1, 1, 4)
    assert found.peak_bytes is not None
    assert 150 * 2**20 < found.peak_bytes < 2 * 2**30  # torch and transformers are in it
    assert 0 < found.step_s < found.open_s
    assert list(tmp_path.iterdir()) == [tmp_path / "a.csv"]


def test_a_probe_tells_what_the_worker_would(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    unit = {"unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 0.5, "record_clip": 1.0}
    recipe = changed(tiny_recipe(tiny["bert"]), privacy=unit)
    with pytest.raises(PolicyRefused) as caught:
        probe(recipe, tiny["bert"], [rows(tmp_path / "a.csv")], threads=1)
    assert caught.value.code == "policy.delta"


def test_bytes_are_those_of_the_plan_and_messages_grow_with_the_sites(tiny: dict[str, BaseModel]) -> None:
    recipe = tiny_recipe(tiny["bert"])
    found = [estimate(recipe, {}, sites=sites, home=Path("nowhere")).traffic for sites in (3, 30)]
    assert found[0].bodies_up == 4 * (1096 + 4) + 72
    assert found[0].bodies_up == found[1].bodies_up
    assert found[1].messages_down - found[0].messages_down == 27_000
    told = found[0].as_json()
    assert told["up_total"] == found[0].once_up + 2 * found[0].up


def test_without_rows_there_is_no_time_and_memory_is_computed(tiny: dict[str, BaseModel]) -> None:
    found = estimate(tiny_recipe(tiny["bert"]), {}, home=Path("nowhere"))
    assert (found.sites, found.probe, found.seconds, found.missing) == (3, None, None, ())
    assert found.cpu_bytes == found.worker_bytes + GATEWAY_BYTES  # type: ignore[operator]


def test_the_models_of_the_catalogue_are_estimated_without_their_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(outline, "_of_child", lambda name: outline.shapes_of(catalogue.described(name)))  # type: ignore[arg-type]
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    document = load_recipe("tcr-covid-esm2-650m").recipe
    assert (document.model.revision, document.model.digest) == (None, None)
    found = estimate(document, {}, home=tmp_path, sites=6)
    # Query and value of 33 layers, rank 8: A [8, 1280], B [1280, 8]; 2 labels of 1280 + 93 slots, 2 biases.
    assert found.trainable_parameters == 33 * 2 * 2 * 8 * 1280 + 2 * (1280 + 93) + 2
    assert found.weight_bytes == 4 * 649_400_320
    assert found.probe is None
    assert "plasmid models import esm2-650m" in found.missing[0]
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 2**18)
    small = estimate(document, {}, home=tmp_path, sites=6).missing
    assert "takes up to 6 GiB on a CPU, this machine has 1 GiB" in small[1]
    ((code, what), *_) = [
        (one.error and one.error.code, one.what) for one in findings(document, {}, None, tmp_path)
    ]
    assert (code, what.startswith("layers and bytes are those of the description of esm2-650m")) == (
        None,
        True,
    )
    lora = document.adapter.lora.model_copy(update={"targets": ["querry"], "layers": 40})
    wrong = document.model_copy(update={"adapter": document.adapter.model_copy(update={"lora": lora})})
    codes = [one.error and one.error.code for one in findings(wrong, {}, None, tmp_path)]
    assert codes == [None, "model.target_unknown", "model.layers_unknown"]


def test_memory_of_a_cpu_holds_scores_and_a_causal_head_its_logits(tiny: dict[str, BaseModel]) -> None:
    base = tiny["bert"]
    recipe = tiny_recipe(base)
    gpu, cpu = (made(recipe, base, 1096) for made in (footprint.gpu_bytes, footprint.cpu_bytes))
    scores = 2 * 16 * 32**2 * 4 * footprint.SCORE_BYTES * 2  # two layers, four heads, in 32 bits
    assert cpu - footprint.PROCESS_BYTES - (gpu - footprint.DRIVER_BYTES) == scores
    half = changed(recipe, training={"precision": "bf16"})
    layer = 2 * (4 * 32 * 32 + 4 * 32 + 2 * 32 * 48 + 48 + 32 + 4 * 32)  # of each layer's weights, a copy
    assert footprint.gpu_bytes(half, base, 1096) - gpu == 2 * layer - 16 * 32 * 32 * 2 * (64 - 20 - 34)


def test_time_is_the_sum_of_turns() -> None:
    measured = Probe(2, 1, 4, open_s=10.0, cache_s=1.0, step_s=0.5, around_s=0.1, peak_bytes=2**30)
    traffic: Any = None
    found = Estimate(100, 6, 8, 48, traffic, None, None, None, measured, None, None, ())
    assert found.cpu_bytes == 2**30 + GATEWAY_BYTES
    seconds = found.seconds
    assert seconds is not None
    assert seconds["first_round"] == pytest.approx(3 * 11.0)
    # 3 turns of 8 rounds of (6 steps and the rest), and the messages
    assert seconds["rounds"] == pytest.approx(3 * 8 * (6 * 0.5 + 0.1) + 8 * (0.045 + 6 * 0.004) * 10)
    # central and the sites alone: 2 x 6 x 48 steps on two children
    assert seconds["baselines"] == pytest.approx(10 + 2 * 6 * 48 * 0.5 / 2 + 3 * 1.0 / 2)
    parts = ("federation", "admission", "first_round", "rounds", "baselines")
    assert seconds["total"] == pytest.approx(sum(seconds[name] for name in parts))


def test_memory_of_a_gpu_follows_the_formula(tiny: dict[str, BaseModel]) -> None:
    base = tiny["bert"]
    recipe = tiny_recipe(base)  # fp32, batch 16, two layers of 32, 30 residues and two special tokens
    weights = 4 * sum(
        tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1)
        for tensor in read_header(base.path / "model.safetensors").values()
    )
    expected = footprint.DRIVER_BYTES + weights + 4 * 1096 * 5 + 2 * 16 * 32 * 32 * 44
    assert footprint.gpu_bytes(recipe, base, 1096) == expected
    values = 16 * 32 * 32
    checkpointed = changed(recipe, training={"checkpointing": True})
    assert footprint.gpu_bytes(checkpointed, base, 1096) - expected == (
        2 * values * 4 + values * 44 - 2 * values * 44
    )
    dense = changed(
        recipe, adapter={"lora": {"rank": 4, "alpha": 8.0, "targets": ["intermediate.dense"], "layers": 2}}
    )
    assert footprint.gpu_bytes(dense, base, 1096) - expected == 2 * values * 20
    assert (footprint.MICRO_ROWS, footprint.MAX_GATHERED_BYTES) == (
        engine.MICRO_ROWS,
        engine.MAX_GATHERED_BYTES,
    )


def test_budgets_of_sites_at_hand_are_told(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    unit = {"unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.0}
    recipe = changed(tiny_recipe(tiny["bert"]), privacy=unit)
    site = SiteHome(tmp_path / "site")
    site.folder.mkdir()
    site.write_config(SiteConfig(name="here", organisation="Here"))
    assert [(one.site, one.left) for one in budgets(recipe, tmp_path)] == [("here", None)]
    site.policy.write_text("budgets: {default: {unit: record, epsilon: 5.0, delta: 1.0e-4}}\n")
    assert [(one.population, one.left) for one in budgets(recipe, tmp_path)] == [("default", 5.0)]
    assert budgets(tiny_recipe(tiny["bert"]), tmp_path) == ()


def test_the_verb_says_how_each_figure_came_about(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(tiny_recipe(tiny["bert"]).model_dump(mode="json")))
    done = CliRunner().invoke(app, ["estimate", str(recipe)])
    assert done.exit_code == 0, done.output
    assert "1,096  exact" in done.stdout
    assert "no GPU was asked" in done.stdout
    assert "they need rows to train on; give --sites DIR" in done.stdout


def test_the_document_s_table_of_larger_models_is_what_is_estimated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(outline, "_of_child", lambda name: outline.shapes_of(catalogue.described(name)))  # type: ignore[arg-type]
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
    told = re.findall(r"\| `([a-z0-9-]+)` \| .*? \| ([\d,]+) of .*? \| ([\d.]+) MiB \| ([\d.]+) GiB \|", text)
    assert {catalogue.about(load_recipe(row[0]).recipe.model.base).id for row in told} == {
        known.id for known in catalogue.absent()
    }
    for name, trained, up, gpu in told:
        found = estimate(load_recipe(name).recipe, {}, home=tmp_path, sites=6)
        gib = (found.gpu_bytes or 0) / 2**30
        assert (f"{found.trainable_parameters:,}", f"{found.traffic.up / 2**20:.1f}", f"{gib:.1f}") == (
            trained,
            up,
            gpu,
        ), name
