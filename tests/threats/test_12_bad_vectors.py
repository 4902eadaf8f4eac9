"""Row 12. Attack: NaN, Inf, wrong shape or dtype in a final vector; 1e30 in one; a NaN gradient of one
record.

Must hold: the final vector is refused before encoding (the cast is silent), the run continues without that
site; the record counts as zero; size clips (norm in fp64), never refuses.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.computations import mean
from plasmid.core.errors import RunFailed
from plasmid.data.table import Table
from plasmid.gateway.gateway import Gateway
from plasmid.protocol.body import pack
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from plasmid.secagg.ring import decode_sum
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from plasmid.worker.worker import Session
from support.federation.attacks import FOUR, refusal
from support.federation.in_memory import Federation
from support.hospital.snapshots import frame_rows
from support.tiny.tiny_task import tiny_recipe, tiny_table

VECTORS = {
    site: np.array([-3, -1, 0, 1, 2, 3], np.float32) * (index + 1) / 16 for index, site in enumerate(FOUR)
}
BAD: dict[str, np.ndarray] = {
    "NaN": np.array([0, 0, math.nan, 0, 0, 0], np.float32),
    "infinity": np.array([0, 0, 0, 0, 0, math.inf], np.float32),
    "minus infinity": np.array([-math.inf, 0, 0, 0, 0, 0], np.float32),
    "only NaN": np.full(6, math.nan, np.float32),
    "too short": np.zeros(5, np.float32),
    "too long": np.zeros(7, np.float32),
    "a matrix": np.zeros((6, 1), np.float32),
    "a scalar": np.zeros((), np.float32),
    "float64": np.zeros(6, np.float64),
    "float16": np.zeros(6, np.float16),
    "int32": np.zeros(6, np.int32),
    "uint32": np.zeros(6, np.uint32),
    "objects": np.zeros(6, object),
}


def test_control_the_cast_alone_is_silent() -> None:
    with np.errstate(invalid="ignore"):
        cast = np.array([math.nan, math.inf, 1e30]).astype(np.int64)
    assert cast.tolist() == [np.iinfo(np.int64).min] * 3


@pytest.mark.promise("bounded-contribution")
@pytest.mark.parametrize("kind", BAD)
def test_the_run_goes_on_without_the_site_whose_vector_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=2), sites=FOUR)
    federation.set_up()
    manifest = federation.manifest()
    with monkeypatch.context() as patch:
        patch.setattr("plasmid.gateway.output.encode", lambda *_: pytest.fail("it was encoded"))
        with refusal("protocol.vector"):
            federation.gateways["delta"].contribute(manifest, lambda _: BAD[kind])
    epoch = federation.gateways["delta"].run(federation.run).epoch
    assert epoch is not None
    assert epoch._next_slot == 0  # no pad was spent on it
    assert federation.log("delta")[-1]["action"] == "manifest"  # begun, and nothing left

    others = [site for site in FOUR if site != "delta"]
    answers = federation.answers(manifest, {site: VECTORS[site] for site in others})
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 3)
    assert total.tolist() == np.sum([VECTORS[site] for site in others], axis=0, dtype=np.float64).tolist()
    # and in the next epoch the site is there again: the others have verified the state
    federation.key_epoch(epoch=2)
    manifest = federation.manifest(2, slot=0)
    answers = federation.answers(manifest, VECTORS)
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 4)
    assert total.tolist() == np.sum(list(VECTORS.values()), axis=0, dtype=np.float64).tolist()


def in_the_clear(tmp_path: Path, document: Any, **settings: Any) -> tuple[Federation, Gateway]:
    federation = Federation(tmp_path, document=document, require={"protect": "none"}, **settings)
    gateway = federation.gateways["alpha"]
    assert federation.admit("alpha").accepted
    gateway.begin_epoch(federation.epoch())
    return federation, gateway


@pytest.mark.promise("bounded-contribution")
@pytest.mark.parametrize("size", [1.0000001, 1e30, 3.4e38])
def test_size_is_clamped_and_never_refused(tmp_path: Path, size: float) -> None:
    document = PingDocument.model_validate({"length": 6, "privacy": {"protect": "none"}})
    federation, gateway = in_the_clear(tmp_path, document)
    manifest = federation.manifest()
    answer = gateway.contribute(manifest, lambda _: np.array([size, -size, 0.5, 0, 0, 1e-40], np.float32))
    one = 2**manifest.scale_log2
    words = federation.words(answer, manifest).view(np.int32)
    assert words[:6].tolist() == [one, -one, one // 2, 0, 0, 0]


@pytest.mark.promise("bounded-contribution")
@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("size", [11.0, 1e30, 3e38])
def test_an_update_of_any_size_is_scaled_to_its_norm_in_float64(
    tmp_path: Path, tiny: dict[str, BaseModel], size: float
) -> None:
    """In float32 the squares of 1e30 are infinite, and the update would become zero, or NaN."""
    values = tiny_recipe(tiny["esm"]).model_dump(mode="json")
    values["privacy"]["protect"] = "none"
    recipe = Recipe.model_validate(values)
    federation, gateway = in_the_clear(
        tmp_path, recipe, tables={"alpha": "sequence,gene,label\nACDEFGHIK,a,yes\nLMNPQRSTV,b,no\n"}
    )
    manifest = federation.manifest()
    update = np.zeros(manifest.length, np.float32)
    update[:4] = size
    answer = gateway.contribute(manifest, lambda _: update)
    left = decode_sum(federation.words(answer, manifest), manifest.encoding(), 1)
    assert np.linalg.norm(left) == pytest.approx(10.0, rel=1e-6)
    assert left[:4].tolist() == pytest.approx([5.0] * 4, rel=1e-6)


# -- one record ------------------------------------------------------------------------------------


def test_a_record_of_which_the_computation_makes_nan_counts_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    original = mean.per_record

    def broken(document: Any, state: Any, row: Any) -> Any:
        record = original(document, state, row)
        return np.full(4, math.nan) if row["age"] == 60.0 else record

    monkeypatch.setattr(mean, "per_record", broken)
    document = QueryDocument(name="ages", column="age", bounds=(0.0, 120.0), max_rows=100)
    table = Table({"age": [0.0, 60.0, 120.0]}, 3)
    header = {"document": document.model_dump(mode="json"), "base": None, **frame_rows(table, document)}
    frame = (header, b"")
    session = Session(SimpleNamespace(send=None), threading.Event(), frame)  # type: ignore[arg-type]
    order = ({"phase": "train", "round": 1, "seed": 0, "sampling": None}, pack("state", np.zeros(4)))
    assert session.compute(order).tolist() == [0.0, 2.0, 2.0, 0.0]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_record_whose_gradient_is_not_finite_counts_as_zero(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    base, table = tiny["esm"], tiny_table(9)
    everyone = UnitSampling(unit="record", clip=0.05, rate=1.0, expected=8.0, noise_multiplier=0.0)
    whole = Engine(tiny_recipe(base), base, table, device="cpu")
    without = Engine(
        tiny_recipe(base), base, table.subset([row for row in range(9) if row != 4]), device="cpu"
    )
    state = initial_state(whole.schema, 0)
    state += np.random.default_rng(0).normal(0.0, 0.3, state.size).astype(np.float32)
    expected = without.gradient_sum(state, sampling=everyone)
    sound = whole.gradient_sum(state, sampling=everyone)
    assert np.abs(sound - expected).max() > 1e-3  # the record matters
    original = Engine._losses

    def poisoned(self: Engine, rows: Any, chosen: Any) -> torch.Tensor:
        factors = torch.where(torch.from_numpy(np.asarray(chosen) == 4), value, 1.0)
        return original(self, rows, chosen) * factors

    monkeypatch.setattr(Engine, "_losses", poisoned)
    assert np.abs(whole.gradient_sum(state, sampling=everyone) - expected).max() < 1e-6
    # in plain training, which has no unit, the same loss ends the call and nothing leaves
    with pytest.raises(RunFailed) as caught:
        whole.train(state, steps=1, seed=0)
    assert caught.value.code == "run.not_finite"
