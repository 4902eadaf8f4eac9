"""Row 35. Attack: a computation that skips clip, noise or a ledger event.

Must hold: it holds none of the three; tested with one that tries.
"""

from __future__ import annotations

import inspect
import json
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.computations import finetune, mean, ping
from plasmid.data.table import Table
from plasmid.dp.noise import skellam
from plasmid.gateway.site_parameters import sampling, unit_terms
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.body import pack
from plasmid.protocol.messages import Manifest
from plasmid.recipes.query import PingDocument
from plasmid.recipes.schema import Recipe
from plasmid.secagg.ring import decode_sum, encode
from plasmid.worker import dp
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from plasmid.worker.worker import Session
from support.federation.attacks import FOUR, as_csv, private, refusal
from support.federation.in_memory import Federation
from support.hospital.snapshots import frame_rows
from support.tiny.tiny_task import tiny_recipe, tiny_table

BUDGET = {"unit": "record", "epsilon": 8.0, "delta": 1e-5}


class Draws:
    """Stands before the gateway's sampler and keeps what it draws."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.all: list[np.ndarray] = []
        patch.setattr("plasmid.gateway.output.skellam", self._draw)

    def _draw(self, length: int, variance: float) -> np.ndarray:
        self.all.append(skellam(length, variance))
        return self.all[-1]


# -- through the gateway ---------------------------------------------------------------------------


@pytest.mark.promise("unit-is-private", "bounded-contribution")
@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("size", [1e30, 1.0])
def test_a_finished_vector_is_bounded_noised_and_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, BaseModel], size: float
) -> None:
    """It puts all it has into one coordinate, as an encoding of a row would; the noise is for that."""
    values = tiny_recipe(tiny["esm"]).model_dump(mode="json")
    values["privacy"] |= {
        "unit": "record", "mechanism": "output", "epsilon": 8.0, "delta": 1e-5, "update_clip": 0.5
    }  # fmt: skip
    federation = Federation(
        tmp_path,
        document=Recipe.model_validate(values),
        sites=FOUR,
        tables=dict.fromkeys(FOUR, as_csv(tiny_table(12))),
        public_size=1000,
        budgets={"default": BUDGET},
    )
    federation.set_up()
    manifest, draws = federation.manifest(), Draws(monkeypatch)
    one_hot = np.zeros(federation.gateways["alpha"].run(federation.run).shape.schema.size, np.float32)
    one_hot[7] = size
    answers = federation.answers(
        manifest, {site: one_hot if site == "alpha" else 0 * one_hot for site in FOUR}
    )
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 4)
    assert len(draws.all) == 4
    left = total - sum(draws.all) * manifest.encoding().step
    assert left[7] == pytest.approx(0.5, abs=1e-6)  # update_clip, whatever it returned
    assert np.abs(np.delete(left, 7)).max() == 0.0
    # what is seen of the coordinate: the noise of the sum is larger than all that it could hold
    std = math.sqrt(4 * manifest.noise_variance) * manifest.encoding().step
    assert std > 0.5
    for gateway in federation.gateways.values():
        assert [entry["event"] for entry in gateway.ledger.entries()] == ["reserve", "spend", "attempt"]


@pytest.mark.promise("charged-first")
def test_a_computation_is_charged_before_it_is_called_and_told_the_manifest_alone(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    gateway, seen = federation.gateways["alpha"], []

    def tries(*given: Any) -> np.ndarray:
        seen.extend(given)
        seen.append([entry["event"] for entry in gateway.ledger.entries()])
        raise RuntimeError("it gives no vector, so that nothing is charged")

    manifest = federation.manifest()
    with pytest.raises(RuntimeError, match="gives no vector"):
        gateway.contribute(manifest, tries)
    assert seen == [manifest, ["reserve", "spend", "attempt"]]
    # it can change nothing about the attempt
    with pytest.raises(ValueError, match="frozen"):
        manifest.noise_variance = 0.0  # type: ignore[misc]


def test_a_vector_that_is_kept_and_changed_after_the_fact_changes_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=6), sites=FOUR)
    federation.set_up()
    manifest, kept = federation.manifest(), np.full(6, 0.5, np.float32)
    answers = federation.answers(manifest, dict.fromkeys(FOUR, kept))
    kept[:] = 1e30
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 4)
    assert total.tolist() == [2.0] * 6


def test_a_vector_that_already_carries_noise_gets_the_node_s_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot say "I have noised it myself": the document's mechanism decides."""
    federation = private(tmp_path)
    federation.set_up()
    draws = Draws(monkeypatch)
    manifest = federation.manifest()
    answers = federation.answers(manifest, dict.fromkeys(FOUR, np.array([3.0, 2.0, 1.0])))
    total = federation.open_sum(list(answers.values()), manifest)
    plain = 4 * encode(np.array([3.0, 2.0, 1.0]), manifest.encoding())[:3]
    found = total[:3] - np.sum(draws.all, axis=0).astype(total.dtype)
    assert np.array_equal(found, plain.astype(total.dtype))


def test_a_computation_that_nobody_can_look_into_gets_no_claim_about_a_record(tmp_path: Path) -> None:
    """Its vector could hold one row a thousand times; noise for one clipped record would not hide that."""
    values = {"unit": "record", "mechanism": "dp-fedsgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.01}
    document = PingDocument.model_validate({"length": 6, "privacy": values})
    assert ping.SITE_HALF == "vector"
    federation = private(tmp_path, document=document, tables={})
    answer = federation.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "recipe.opaque")
    assert federation.gateways["alpha"].ledger.entries() == []
    (line,) = [line for line in federation.log("alpha") if line["action"] == "refused"]
    assert line["reason"] == (
        "mechanism: dp-fedsgd clips every record; ping returns a finished vector, in which nobody can."
    )


# -- inside the worker -----------------------------------------------------------------------------


def order(federation: Federation) -> dict[str, Any]:
    """Return what the gateway orders of the worker for a record of *federation*'s document."""
    terms = unit_terms(federation.document, federation.home("alpha").config().public_size)
    return {"phase": "train", "round": 1, "seed": 0, "sampling": sampling(federation.document, terms)}


def test_a_record_is_clipped_by_the_node_whatever_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = private(tmp_path)
    given: list[dict[str, Any]] = []
    original = mean.per_record

    def hostile(document: Any, state: Any, row: Any) -> Any:
        given.append({"document": document, "state": state, "row": row})
        return 1e9 * np.array([1.0, -1.0, 1.0]) if row["age"] == 60.0 else np.zeros(3)

    monkeypatch.setattr(mean, "per_record", hostile)
    table = Table({"age": [0.0, 60.0, 120.0]}, 3)
    header = {"document": federation.values, "base": None, **frame_rows(table, federation.document)}
    frame = (header, b"")
    session = Session(SimpleNamespace(send=None), threading.Event(), frame)  # type: ignore[arg-type]
    told = order(federation)
    vector = session.compute((told, pack("state", np.zeros(3))))
    assert np.linalg.norm(vector) == pytest.approx(federation.document.privacy.record_clip)
    # what it is given: the document, the public state and a row; of noise the order holds none
    assert list(inspect.signature(original).parameters) == ["document", "state", "row"]
    assert sorted(names["row"]["age"] for names in given) == [0.0, 60.0, 120.0]
    assert all(set(names["row"]) == {"age"} for names in given)
    assert told["sampling"]["noise_multiplier"] == 0.0
    assert not given[0]["state"].flags.writeable
    said = json.dumps([frame[0], told])
    assert not [word for word in (str(tmp_path), "ledger", "variance") if word in said]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("factor", [1e6, -1e6])
def test_a_loss_of_any_size_moves_the_sum_by_one_clip(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """It singles one row out by what it sees, and blows its gradient up."""
    base, clip = tiny["esm"], 0.05
    everyone = UnitSampling(unit="record", clip=clip, rate=1.0, expected=8.0, noise_multiplier=0.0)
    engine = Engine(tiny_recipe(base), base, tiny_table(9), device="cpu")
    state = initial_state(engine.schema, 0)
    state += np.random.default_rng(0).normal(0.0, 0.3, state.size).astype(np.float32)
    honest = engine.gradient_sum(state, sampling=everyone)
    original = finetune.losses

    def hostile(model: Any, batch: Any) -> Any:
        losses = original(model, batch)
        weights = losses.new_ones(len(losses))
        weights[0] = factor
        return losses * weights

    monkeypatch.setattr(finetune, "losses", hostile)
    moved = engine.gradient_sum(state, sampling=everyone).astype(np.float64) - honest
    assert 0 < np.linalg.norm(moved) <= 2 * clip  # one row, from one end of its clip to the other at most
    # control: with a clip that does not bind, the row is all that is seen
    loose = UnitSampling(unit="record", clip=1e12, rate=1.0, expected=8.0, noise_multiplier=0.0)
    assert np.linalg.norm(engine.gradient_sum(state, sampling=loose)) > 1e3 * clip


@pytest.mark.usefixtures("at_home")
def test_noise_of_dp_sgd_is_the_engine_s_and_its_size_the_gateway_s(
    tmp_path: Path, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is constant has no gradient, and the step is noise alone."""
    values = tiny_recipe(tiny["esm"], optimizer="sgd").model_dump(mode="json")
    values["privacy"] |= {
        "unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.5
    }  # fmt: skip
    recipe = Recipe.model_validate(values)
    federation = Federation(
        tmp_path,
        document=recipe,
        tables=dict.fromkeys(("alpha", "beta", "gamma"), as_csv(tiny_table(12))),
        public_size=100,
        budgets={"default": BUDGET},
    )
    told = order(federation)["sampling"]
    assert told["noise_multiplier"] > 0
    assert told["clip"] == 0.5
    with monkeypatch.context() as patch:  # the document and the model hold neither
        patch.setattr(finetune, "losses", lambda model, batch: 0.0 * model(batch).float().sum(dim=1))
        engine = Engine(recipe, tiny["esm"], tiny_table(12), device="cpu")
        patch.setattr(engine._health, "end_call", lambda: None)
        state = initial_state(engine.schema, 0)
        steps = engine.train(state, steps=1, seed=0, sampling=UnitSampling(**told)) - state
    rates = {"lora": 5e-3, "head": 1e-2, "covariate": 5e-2}
    scale = told["noise_multiplier"] * told["clip"] / told["expected"]
    parts = engine.schema.unflatten(steps)
    lora = np.concatenate([part.ravel() for name, part in parts.items() if not name.startswith("head")])
    assert float(lora.std()) == pytest.approx(rates["lora"] * scale, rel=0.2)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_a_worker_that_skips_the_noise_gets_nothing_out(
    tmp_path: Path, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Clip and noise of dp-sgd are the worker's; the gateway knows how long such a step must be."""
    values = tiny_recipe(tiny["esm"], optimizer="sgd", steps=1).model_dump(mode="json")
    values["privacy"] |= {
        "unit": "record", "mechanism": "dp-sgd", "epsilon": 4.0, "delta": 1e-5, "record_clip": 0.5
    }  # fmt: skip
    recipe = Recipe.model_validate(values)
    federation = Federation(
        tmp_path,
        document=recipe,
        sites=FOUR,
        tables=dict.fromkeys(FOUR, as_csv(tiny_table(12))),
        public_size=100,
        budgets={"default": BUDGET},
    )
    federation.set_up()
    told = UnitSampling(**order(federation)["sampling"])
    engine = Engine(recipe, tiny["esm"], tiny_table(12), device="cpu")
    state = initial_state(engine.schema, 0)
    monkeypatch.setattr(dp, "gaussian", lambda size, std, draw=dp.gaussian: draw(size, share * std))

    def works(_: Manifest) -> np.ndarray:
        return engine.train(state, steps=1, seed=0, sampling=told) - state

    gateway, manifest = federation.gateways["alpha"], federation.manifest()
    if share == 1.0:  # the control: an honest worker's step leaves
        assert gateway.contribute(manifest, works).body
        return
    with refusal("protocol.noise"):
        gateway.contribute(manifest, works)
    assert not [line for line in federation.log("alpha") if line["action"] == "released"]
    assert [entry["event"] for entry in gateway.ledger.entries()] == ["reserve", "spend", "attempt"]


def test_a_bound_that_the_computation_changes_on_the_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds come from `shape`, computed at admission, at both ends, and compared in every manifest."""
    federation = private(tmp_path)
    federation.admit_all()
    original = mean.shape
    admitted = federation.gateways["alpha"].run(federation.run)

    def lying(document: Any, base: Any) -> Any:
        shape = original(document, base)
        return type(shape)(schema=shape.schema, bound=1e6 * shape.bound, norm=None, bits=64)

    federation.key_epoch()
    honest = federation.manifest()
    monkeypatch.setattr(mean, "shape", lying)
    plan = attempt_plan(
        federation.document, mean.shape(federation.document, None), sites=4, c=1, planned=federation.planned
    )
    assert plan.encoding.bound != honest.bound
    lied: Manifest = federation.manifest(bound=plan.encoding.bound, scale_log2=plan.encoding.scale_log2)
    with refusal("protocol.manifest"):
        federation.gateways["alpha"].contribute(lied, lambda _: np.zeros(3))
    assert admitted.shape.bound == honest.bound
