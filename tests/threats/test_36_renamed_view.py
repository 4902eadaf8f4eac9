"""Row 36. Attack: the same patients through a renamed view or another connector.

Must hold: same population, same ledger.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.settings import dump_settings
from plasmid.gateway.policy.file import read_policy
from plasmid.protocol.messages import Admission
from plasmid.recipes.counts import CountsDocument
from plasmid.recipes.protection import Protection
from plasmid.recipes.query import QueryDocument
from support.federation.attacks import BUDGET, FOUR, count_document, private, refusal
from support.federation.in_memory import Federation, document_of

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


# -- the same patients, by their identifiers, under another name --------------------------------------------

PATIENTS = [f"p{one}" for one in range(40)]
BY_SEX = CountsDocument.model_validate(
    {
        "computation": "counts",
        "name": "by-sex",
        "axes": [{"type": "category", "column": "sex", "vocabulary": ["female", "male"]}],
        "patient": "who",
        "max_rows": 1000,
        "privacy": Protection(
            unit="record", mechanism="dp-fedsgd", epsilon=EPSILON, delta=1e-6, record_clip=1.0
        ).model_dump(),
    }
)


def through_a_database(federation: Federation, patients: list[str], **view: Any) -> None:
    """Have alpha's view of the same document come from a database with its own names and codes."""
    home = federation.home("alpha")
    path = home.folder / "warehouse.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE patients (pid TEXT, gender TEXT)")
        database.executemany("INSERT INTO patients VALUES (?, ?)", [(f" {one} ", "W") for one in patients])
    database.close()
    rows = {
        "table": "patients",
        "columns": {"who": "pid", "sex": {"column": "gender", "codes": {"W": "female"}}},
    }
    known = {"warehouse": {"kind": "sql", "url": f"sqlite:///{path}", "writable_role": "allow"}}
    home.connections.write_bytes(dump_settings({"connections": known}))
    home.views.mkdir(exist_ok=True)
    (home.views / "by-sex.yaml").write_bytes(
        dump_settings({"source": "warehouse", "tables": {"rows": rows}, **view})
    )


@pytest.fixture
def patients(tmp_path: Path) -> Federation:
    """Alpha has taken part in a run about forty patients of its file."""
    text = "who,sex\n" + "".join(f"{one},female\n" for one in PATIENTS)
    budgets = {"default": BUDGET, "others": BUDGET}
    made = private(tmp_path, document=BY_SEX, tables=dict.fromkeys(FOUR, text), budgets=budgets)
    assert made.admit("alpha").accepted
    made.new_run("run-2")
    return made


def test_the_same_patients_through_another_connector_under_another_population_are_refused(
    patients: Federation,
) -> None:
    through_a_database(patients, PATIENTS, population="others")
    for answer in (patients.gateways["alpha"].answer(patients.asking()), patients.admit("alpha")):
        assert (answer.accepted, answer.code) == (False, "data.not_ready"), "under a unit all is one answer"
        assert answer.sentence == "The site's data are not ready for this recipe."
    (line, _) = [line for line in patients.log("alpha") if line["action"] == "refused"]
    told = "data.population_overlap: 40 people of this view, which is said to show the population 'others'"
    assert line["reason"].startswith(told)
    assert spent(patients) == {"default": EPSILON}


def test_with_the_same_population_the_same_ledger_is_charged(patients: Federation) -> None:
    through_a_database(patients, PATIENTS)
    assert patients.admit("alpha").accepted
    assert spent(patients) == {"default": 2 * EPSILON}
    patients.new_run("run-3")
    assert patients.admit("alpha").code == "policy.budget"


@pytest.mark.limit("up to ten people in common are taken for chance")
def test_control_other_patients_are_another_population(patients: Federation) -> None:
    """Ten in common may be chance."""
    strangers = [f"q{one}" for one in range(40)]
    through_a_database(patients, [*PATIENTS[:10], *strangers], population="others")
    assert patients.admit("alpha").accepted
    assert spent(patients) == {"default": EPSILON, "others": EPSILON}
    patients.new_run("run-3")
    through_a_database(patients, [*PATIENTS[:11], *strangers], population="others")
    assert patients.admit("alpha").code == "data.not_ready"
    assert patients.log("alpha")[-1]["reason"].startswith("data.population_overlap: 11 people")
