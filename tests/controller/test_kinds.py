"""A federation of each kind of task: real gateways, masks and rounds; its adapter predicts and is judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from controller.conftest import NAMES, Scene
from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.data.table import Table as Rows
from plasmid.experiments.table import Table
from plasmid.prediction.evaluation import evaluate_file, predict_file, write_release
from plasmid.protocol.body import unpack
from plasmid.protocol.messages import Manifest
from plasmid.worker.engine import Engine
from support.tiny.tiny_kinds import KINDS, kind_recipe, kind_table
from support.tiny.tiny_language import language_bases, language_recipe, language_table

Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]


def _csv(table: Rows) -> str:
    lines = [[*table.columns], *zip(*table.columns.values(), strict=True)]
    return "\n".join(",".join("NA" if cell is None else str(cell) for cell in line) for line in lines) + "\n"


@pytest.fixture(scope="module")
def language(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    """A base by kind of task, where its own head answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        found = language_bases(
            tmp_path_factory.mktemp("sources"), [("causal", "llama"), ("masked-lm", "bert")]
        )
    return {kind: base for (kind, _), base in found.items()}


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("kind", [*KINDS, "causal", "masked-lm"])
def test_three_sites_train_an_adapter_that_beats_its_start(
    kind: str,
    scene: Make,
    start: Start,
    tiny: dict[str, BaseModel],
    language: dict[str, BaseModel],
    tmp_path: Path,
) -> None:
    base = language.get(kind, tiny["bert"])
    made_of: Any = (kind_recipe, kind_table) if kind in KINDS else (language_recipe, language_table)
    recipe = made_of[0](base, kind, steps=12)
    table = made_of[1]
    engines = {
        name: Engine(recipe, base, table(kind, 64, seed=place), device="cpu")
        for place, name in enumerate(NAMES[:3])
    }

    def compute(made: Scene, site: str, manifest: Manifest) -> np.ndarray:
        engine = engines[site]
        body = made.link.bodies.published(manifest.state).read_bytes()
        state = unpack(body, "state", length=engine.schema.size, dtype=np.dtype(np.float32))
        return engine.train(state, steps=12, seed=manifest.round) - state

    made = scene(
        3, recipe, admitted=False, compute=compute, tables=dict.fromkeys(NAMES[:3], _csv(table(kind, 4)))
    )
    shown = start(made)
    assert (shown["state"], shown["error"], shown["rounds_done"]) == ("SUCCEEDED", None, 2)
    size = engines[NAMES[0]].schema.size
    body = made.link.bodies.published(shown["result"]["state"]).read_bytes()
    final = unpack(body, "state", length=size, dtype=np.dtype(np.float32))

    unseen = table(kind, 60, seed=9)
    pa.parquet.write_table(pa.table(dict(unseen.columns)), tmp_path / "unseen.parquet")
    values = []
    for state in (initial_state(engines[NAMES[0]].schema, recipe.seed), final):
        write_release(tmp_path / "adapter", recipe, base, state, provenance={"rounds": 2})
        values.append(evaluate_file(tmp_path / "adapter", tmp_path / "unseen.parquet").value)
    gained = values[0] - values[1] if recipe.task.fewer_is_better else values[1] - values[0]
    assert gained > 0.1, values
    assert len(predict_file(tmp_path / "adapter", tmp_path / "unseen.parquet").answers) == 60


def test_of_an_error_less_is_better() -> None:
    table = Table("rmse", federated=2.0, local={"a": 3.0, "b": 2.5}, central=1.5, simple_central=1.0)
    assert ("best single site (b)", 2.5) in table.rows()
    assert table.verdict() == [
        "Federated is 0.500 below the best single site and 0.750 below the mean one.",
        "Federated is 0.500 above central training.",
        "Federated is 1.000 above the pooled simple model.",
        "On this data the simple model, if all rows could be pooled, is the better choice.",
        "Of rmse less is better.",
    ]
    better = Table("rmse", federated=2.0, simple_central=3.0)
    assert better.verdict() == [
        "Federated is 1.000 below the pooled simple model.",
        "Of rmse less is better.",
    ]
