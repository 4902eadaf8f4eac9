"""Every kind of recipe computes inside the sandbox, and calls nothing that the list of system calls lacks.

Tiny models, two steps; each in a worker that Landlock locks in, on two threads. A call that the list lacks is
in the site's log, and so it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from computations.test_trees import document as trees_document
from computations.test_trees import rows as trees_rows
from controller.test_evaluation import adapter, asked
from plasmid.bases.store import BaseModel
from plasmid.computations import api, evaluate
from plasmid.core.yaml12 import parse_yaml
from plasmid.data.table import Table
from plasmid.gateway.session import WorkerSession
from plasmid.isolation.launcher import LocalLauncher
from plasmid.recipes.catalogue import get, ls
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from plasmid.secagg.statements import IsolationLevel
from support.federation.bundle_recipes import RECORD, ages, bundle_recipe
from support.federation.flower_apps import MODERN, flower_recipe
from support.hospital.snapshots import snapshot_of
from support.tiny.tiny_kinds import kind_recipe, kind_table
from support.tiny.tiny_language import language_bases, language_recipe, language_table
from support.tiny.tiny_task import tiny_table

pytestmark = pytest.mark.slow
LEVEL: IsolationLevel = "landlock"
UNIT = {"unit": "record", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.0}
SAMPLED = {
    "unit": "record", "clip": 1.0, "rate": 0.5, "expected": 16.0, "noise_multiplier": 1.0, "max_records": 96,
}  # fmt: skip
PER_RECORD = """
import numpy as np

def per_record(state, row, settings):
    return np.array([row["age"] / 120.0, 0.0, state[0]])
"""


@dataclass(frozen=True)
class Work:
    """What one worker does."""

    document: Any
    table: Table | None
    base: BaseModel | None = None
    sampling: dict[str, Any] | None = None
    phases: tuple[str, ...] = ("train",)
    state: np.ndarray | None = None


@pytest.fixture(scope="module")
def bases(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], BaseModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        which = [("causal", "llama"), ("masked-lm", "roberta")]
        return language_bases(tmp_path_factory.mktemp("language"), which)


Bases = dict[tuple[str, str], BaseModel]


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    values = recipe.model_dump(mode="json")
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


def of_kind(kind: str, base: BaseModel, **sections: dict[str, Any]) -> Work:
    return Work(changed(kind_recipe(base, kind, steps=2), **sections), kind_table(kind, 32), base)


def molecules(base: BaseModel) -> Work:
    table = kind_table("regression", 32)
    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "CN1CCC[C@H]1c1cccnc1", "CCO", "c1ccccc1"]
    columns = {**table.columns, "drug": [smiles[row % 4] for row in range(32)]}
    recipe = kind_recipe(base, "regression", steps=2).model_dump(mode="json")
    recipe["data"]["columns"]["drug"] = {"type": "molecule", "max_length": 60}
    recipe["adapter"]["covariates"] = ["gene", "drug"]
    return Work(Recipe.model_validate(recipe), Table(columns, 32), base)


def evaluation(base: BaseModel) -> Work:
    given = adapter(base)
    document = asked(base, given, 8.0)
    state = evaluate.first(document, evaluate.shape(document, base), given)
    return Work(document, tiny_table(32), base, state=state)


def language(kind: str, bases: Bases) -> Work:
    base = next(one for (found, _), one in bases.items() if found == kind)
    return Work(language_recipe(base, kind, steps=2), language_table(kind, 16), base)


WORK: dict[str, Callable[[dict[str, BaseModel], Bases], Work]] = {
    "classification": lambda tiny, _: of_kind("classification", tiny["esm"]),
    "regression": lambda tiny, _: of_kind("regression", tiny["bert"]),
    "token-classification": lambda tiny, _: of_kind("token-classification", tiny["esm"]),
    "causal": lambda _, bases: language("causal", bases),
    "masked-lm": lambda _, bases: language("masked-lm", bases),
    "a base in 4 bits": lambda tiny, _: of_kind("classification", tiny["esm"], model={"quantization": "nf4"}),
    "molecules": lambda tiny, _: molecules(tiny["bert"]),
    "dp-sgd": lambda tiny, _: Work(
        of_kind("classification", tiny["esm"], privacy=UNIT | {"mechanism": "dp-sgd"}).document,
        kind_table("classification", 32),
        tiny["esm"],
        SAMPLED,
    ),
    "canaries": lambda tiny, _: Work(
        of_kind(
            "classification",
            tiny["esm"],
            privacy={"audit": {"canaries": 40, "max_audited_epsilon": 4.0}},
        ).document,
        kind_table("classification", 32),
        tiny["esm"],
        phases=("train", "audit"),
    ),
    "evaluate": lambda tiny, _: evaluation(tiny["bert"]),
    "trees": lambda *_: Work(trees_document(), trees_rows(200)),
    "mean": lambda *_: Work(
        QueryDocument(name="ages", column="age", bounds=(0.0, 100.0), max_rows=100), ages(1.0, 60.0)
    ),
    "ping": lambda *_: Work(PingDocument(length=10), None),
    "a bundle": lambda *_: Work(
        bundle_recipe(
            "import numpy\n\ndef vector(state, view, settings):\n    return numpy.ones(3)\n",
            half="vector",
        ),
        ages(1.0, 60.0),
    ),
    "a bundle, each record apart": lambda *_: Work(
        bundle_recipe(PER_RECORD, privacy=RECORD),
        ages(1.0, 60.0),
        sampling={"unit": "record", "clip": 1.0, "rate": 1.0, "expected": 1.0, "noise_multiplier": 0.0},
    ),
    "a ClientApp of Flower": lambda *_: Work(
        flower_recipe(MODERN, initial={}),
        Table({"height": [160.0, None, 171.25], "group": ["a", "b", None]}, 3),
    ),
}


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("kind", WORK)
def test_it_computes_without_a_call_that_the_list_lacks(
    kind: str, tiny: dict[str, BaseModel], bases: Bases, tmp_path: Path
) -> None:
    work, refused = WORK[kind](tiny, bases), []
    log = tmp_path / "worker.log"
    read = [] if work.base is None else [work.base.path]
    at = WorkerSession(LocalLauncher(LEVEL, threads=2), log, read=read, notice=refused.append)
    computation = api.load(work.document.computation)
    shape = computation.shape(work.document, work.base)
    state = computation.initial(work.document, shape) if work.state is None else work.state
    rows = None if work.table is None else snapshot_of(work.table, work.document)
    try:
        at.open(work.document.model_dump(mode="json"), work.base, rows)
        for phase in work.phases:
            length = 2 if phase == "audit" else shape.schema.size
            vector = at.compute(
                state,
                order={"phase": phase, "round": 1, "seed": 0, "sampling": work.sampling},
                length=length,
                dtype=np.dtype("<f8") if phase == "audit" else state.dtype,
                progress=lambda *_: None,
            )
            assert vector.size == length
            assert np.isfinite(vector).all()
    finally:
        at.end()
    assert refused == [], log.read_text()


def test_every_recipe_that_is_shipped_is_of_a_kind_that_was_run() -> None:
    shipped = [parse_yaml(get(name).read_text("utf-8"))[0] for name in ls()]
    computations = {document.get("computation", "finetune") for document in shipped}
    assert computations == {"finetune", "trees"}
    assert {document["task"]["kind"] for document in shipped} <= {*WORK}
