"""Row 36. Attack: the same patients through a renamed view or another connector.

Must hold: same population, same ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks import BUDGET, FOUR, count_document, private, refusal
from in_memory import Federation, document_of
from plasmid.gateway.policy import read_policy
from plasmid.protocol.messages import Admission
from plasmid.recipes.query import QueryDocument

EPSILON = 3.2
"""Two runs of this epsilon fit into the budget of 8, a third does not."""


def view(name: str, **changes: Any) -> Any:
    return count_document(name=name, epsilon=EPSILON, **changes)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Two runs of the view `ages` were made, and most of the budget is spent."""
    made = private(tmp_path, document=view("ages"))
    for run in ("run-1", "run-2"):
        made.new_run(run)
        made.set_up()
        manifest = made.manifest()
        answers = made.answers(manifest, dict.fromkeys(FOUR, np.zeros(3)))
        made.open_sum(list(answers.values()), manifest)
    return made


def asked(federation: Federation, document: Any) -> Admission:
    """Have alpha's owner allow *document*, and ask its gateway to admit it."""
    values, digest = document_of(document)
    federation.allow("alpha", [federation.digest, digest])
    federation.new_run("run-3")
    question = federation.gateways["alpha"].answer(federation.asking(document=values, digest=digest))
    answer = federation.gateways["alpha"].answer(federation.admitting(document=values, digest=digest))
    assert (question.accepted, question.code) == (answer.accepted, answer.code)
    return answer


def spent(federation: Federation) -> dict[str, float]:
    return {name: float(sums.epsilon) for name, sums in federation.gateways["alpha"].ledger.summary().items()}


def move_data(federation: Federation, data: str) -> None:
    """Point the site at other files with the same rows."""
    home = federation.home("alpha")
    target = home.folder / data
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text((home.folder / "data" / "table.csv").read_text())
    home.write_config(home.config().model_copy(update={"data": data}))


def test_the_same_view_is_refused_when_the_budget_is_used_up(federation: Federation) -> None:
    assert spent(federation) == {"default": 6.4}
    assert asked(federation, view("ages")).code == "policy.budget"


def test_a_renamed_view_draws_on_the_same_budget(federation: Federation) -> None:
    """Another recipe, another digest, its own file."""
    data = federation.home("alpha").folder / "data"
    (data / "years.csv").write_text("years\n30\n")
    (data / "ages-again.csv").write_text("age\n30\n")
    renamed = view("years").model_copy(update={"column": "years"})
    assert document_of(renamed)[1] != federation.digest
    assert asked(federation, renamed).code == "policy.budget"
    assert asked(federation, view("ages-again", spare=0)).code == "policy.budget"
    (line,) = [line for line in federation.log("alpha") if line["action"] == "refused"][-1:]
    assert "population 'default' has left epsilon 1.6 of 8" in line["reason"]


@pytest.mark.parametrize("data", ["elsewhere/export.csv", "warehouse/snapshot-2.csv"])
def test_another_connector_draws_on_the_same_budget(federation: Federation, data: str) -> None:
    move_data(federation, data)
    assert asked(federation, view("ages")).code == "policy.budget"


def test_neither_a_restart_nor_a_new_public_size_gives_anything_back(federation: Federation) -> None:
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update={"public_size": 5000}))
    federation.restart("alpha")
    assert asked(federation, view("ages")).code == "policy.budget"
    assert spent(federation) == {"default": 6.4}


def test_a_population_has_one_unit(federation: Federation) -> None:
    """Sites and records are counted by different measures, which do not add up."""
    values = view("ages").model_dump(mode="json")
    values["privacy"] |= {"unit": "site", "mechanism": "output", "record_clip": None, "epsilon": 0.1}
    document = QueryDocument.model_validate(
        values | {"bounds": tuple(values["bounds"]), "missing_markers": ()}
    )
    assert asked(federation, document).code == "policy.budget_unit"
    assert spent(federation) == {"default": 6.4}


def test_control_two_populations_do_not_share(federation: Federation) -> None:
    """People whom the owner declares to be others: with a budget of their own the same run is accepted."""
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update={"population": "volunteers"}))
    assert asked(federation, view("ages")).code == "policy.no_budget"
    federation.budgets = {**federation.budgets, "volunteers": federation.budgets["default"]}
    assert asked(federation, view("ages")).accepted
    assert spent(federation) == {"default": 6.4, "volunteers": EPSILON}
    assert set(read_policy(home.policy).budgets) == {"default", "volunteers"}


def test_a_run_that_was_reserved_stays_with_its_population(tmp_path: Path) -> None:
    """The owner renames the population in the middle of a run: it is not admitted again elsewhere."""
    federation = private(tmp_path, budgets={"default": BUDGET, "other": BUDGET})
    federation.set_up()
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update={"population": "other"}))
    gateway = federation.restart("alpha")
    assert federation.admit("alpha").code == "policy.budget"
    with refusal("run.unknown"):
        gateway.run(federation.run)
