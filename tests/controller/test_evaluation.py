"""An adapter is judged at the sites: it is given, checked by everyone, scored, and only sums come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controller.conftest import NAMES, Scene
from plasmid.bases.store import BaseModel
from plasmid.client.evaluation import lines
from plasmid.computations import evaluate
from plasmid.computations.api import first_state, given_digest
from plasmid.encoders.encoder import AdaptedModel
from plasmid.protocol.body import unpack
from plasmid.recipes.evaluation import EvaluationDocument, evaluation_from_recipe
from plasmid.recipes.query import noised
from plasmid.tasks.metrics import auc, label_indices
from plasmid.worker.scoring import Scorer
from support.tiny.tiny_task import tiny_recipe, tiny_table

pytestmark = pytest.mark.usefixtures("at_home")
Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]
SITES = 3
ROWS = 360
EPSILON = 40.0  # almost the largest that can be had, so that the noise hides no mistake
TABLES = {name: tiny_table(ROWS // SITES, seed) for seed, name in enumerate(NAMES[:SITES])}


def adapter(base: BaseModel) -> np.ndarray:
    """Return an adapter on *base* that is not at its start."""
    recipe = tiny_recipe(base)
    size = AdaptedModel.load(base, recipe.adapter.lora, recipe.head()).schema.size
    return np.random.default_rng(4).normal(0, 0.2, size).astype(np.float32)


def asked(base: BaseModel, given: np.ndarray, epsilon: float) -> EvaluationDocument:
    recipe = tiny_recipe(base)
    return evaluation_from_recipe(
        recipe,
        lora=recipe.adapter.lora,
        head=recipe.head(),
        base=base.digest,
        given=given_digest(given),
        rows="all",
        bins=40,
        privacy=noised(epsilon, 1e-3, 1.0),
    )


def csv(name: str) -> str:
    rows = [f"{row['sequence']},{row['gene'] or ''},{row['label']}" for row in TABLES[name].records()]
    return "\n".join(["sequence,gene,label", *rows]) + "\n"


@pytest.fixture
def judged(scene: Make, tiny: dict[str, BaseModel]) -> Callable[..., tuple[Scene, np.ndarray]]:
    """Return a function that makes the run, with real scores and noise, and the adapter."""
    base = tiny["bert"]

    def make(*, give: bool = True) -> tuple[Scene, np.ndarray]:
        given = adapter(base)
        document = asked(base, given, EPSILON)
        shape = evaluate.shape(document, base)

        def compute(made: Scene, site: str, manifest: Any) -> np.ndarray:
            body = made.link.bodies.published(manifest.state).read_bytes()
            state = unpack(body, "state", length=shape.state.size, dtype=shape.dtype)
            rows = Scorer(document, base, lambda: None).records(
                evaluate.adapter_of(shape, state), TABLES[site]
            )
            return np.sum([evaluate.per_record(document, state, row) for row in rows], axis=0)

        made = scene(
            SITES,
            document,
            admitted=False,
            compute=compute,
            tables={name: csv(name) for name in TABLES},
            public_size=ROWS // SITES,
            budgets={"default": {"unit": "record", "epsilon": EPSILON, "delta": 1e-3}},
        )
        if give:
            body = given.astype("<f4").tobytes()
            digest = given_digest(given)
            half = len(body) // 2
            for start, end in ((0, half), (half, len(body))):
                chunk = body[start:end]
                made.link.bodies.take_given(
                    "ada", digest, start, len(body), chunk, given_digest(np.frombuffer(chunk, "<f4"))
                )
        return made, given

    return make


def test_the_sites_sums_say_what_all_rows_in_one_place_would(
    judged: Callable[..., tuple[Scene, np.ndarray]], start: Start, tiny: dict[str, BaseModel]
) -> None:
    made, given = judged()
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    result = shown["result"]
    assert result["signed"] is None  # it is an answer, no adapter
    base = tiny["bert"]
    recipe = tiny_recipe(base)
    model = AdaptedModel.load(base, recipe.adapter.lora, recipe.head())
    model.set_state(given)
    likely, labels = [], []
    for table in TABLES.values():
        rows = model.encode(table.columns, input_column="sequence", max_length=recipe.max_length)
        likely.append(model.answers(rows).values)
        labels.append(label_indices(recipe.task.labels, table.columns["label"]))
    scores, truth = np.concatenate(likely), np.concatenate(labels)
    answer = result["answer"]
    noise = result["noise_std"] * np.sqrt(
        SITES / (SITES - 1) * np.size(answer["counts"])
    )  # of the whole table
    assert 0.0 < noise / ROWS < 1.0 / 180
    assert answer["count"] == pytest.approx(ROWS, abs=0.5 + 6 * noise)
    assert answer["accuracy"] == pytest.approx((scores.argmax(1) == truth).mean(), abs=6 * noise / ROWS)
    assert answer["auc"] == pytest.approx(auc(scores, truth), abs=0.01 + 12 * noise / ROWS)
    assert answer["suppressed"] is None
    told = lines(answer)
    assert told[0].endswith(" rows of the sites, at 3 sites")
    assert told[1].startswith("auc 0.")


def test_without_the_adapter_the_run_ends_before_a_sum(
    judged: Callable[..., tuple[Scene, np.ndarray]], start: Start
) -> None:
    made, _ = judged(give=False)
    shown = start(made)
    assert (shown["state"], shown["error"]["code"]) == ("FAILED", "recipe.given")
    assert made.events("alpha", "manifest") == []
    assert not made.federation.gateways["alpha"].ledger.summary()["default"].epsilon


def test_a_coordinator_that_sends_another_adapter_is_caught_before_a_row_is_scored(
    judged: Callable[..., tuple[Scene, np.ndarray]], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = judged()

    def other(*arguments: Any) -> np.ndarray:
        state = first_state(*arguments).copy()
        state[0] += 1.0
        return state

    monkeypatch.setattr("plasmid.coordinator.rounds.api.first_state", other)
    shown = start(made)
    assert shown["state"] == "FAILED"
    assert "[protocol.step]" in shown["error"]["message"]
    assert made.events("alpha", "released") == []


def test_rows_are_scored_once_and_in_order(tiny: dict[str, BaseModel], monkeypatch: Any) -> None:
    monkeypatch.setattr("plasmid.worker.scoring.CHUNK_ROWS", 50)
    base, calls = tiny["bert"], []
    given, table = adapter(base), TABLES["alpha"]
    scorer = Scorer(asked(base, given, EPSILON), base, lambda: calls.append("stop?"))
    passes: list[int] = []
    answers = scorer._model.answers
    monkeypatch.setattr(scorer._model, "answers", lambda rows: (passes.append(len(rows)), answers(rows))[1])
    first = list(scorer.records(given, table))
    again = list(scorer.records(given, table))
    assert [dict(row) for row in first] == list(table.records())
    assert [row.probabilities for row in first] == [row.probabilities for row in again]
    assert passes == [50, 50, 20]
    assert len(calls) == 6
    changed = next(iter(scorer.records(given + np.float32(0.1), table)))
    assert changed.probabilities != first[0].probabilities
