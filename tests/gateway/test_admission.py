"""From a document that someone wants to run to a run that this site takes part in, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasmid.bases import catalogue
from plasmid.bases.store import BaseModel
from plasmid.core.errors import PlasmidError
from plasmid.gateway.admission import AdmittedRun, admit
from plasmid.gateway.replay import Marks
from plasmid.protocol.messages import Admit, Ask, Planned, UnitTerms
from plasmid.recipes.query import PingDocument, QueryDocument
from support.federation.attacks import BUDGET, count_document, private
from support.federation.in_memory import Federation, document_of
from support.hospital.snapshots import rows_in
from support.tiny.tiny_task import tiny_recipe


def asked(federation: Federation, kind: type[Ask] | type[Admit] = Admit, **changes: Any) -> AdmittedRun:
    """Have alpha admit the federation's document, or a changed request."""
    gateway = federation.gateways["alpha"]
    request = federation.asking(**changes) if kind is Ask else federation.admitting(**changes)
    return admit(
        gateway.home,
        gateway.projects,
        gateway.audit,
        gateway.ledger,
        gateway.approvals,
        request,
        isolation="none",
    )


def refused(federation: Federation, **changes: Any) -> PlasmidError:
    """Return why alpha neither admits the request nor would; nothing is in its ledger."""
    errors = []
    for kind in (Ask, Admit):
        with pytest.raises(PlasmidError) as caught:
            asked(federation, kind, **changes)
        errors.append(caught.value)
    assert errors[0].code == errors[1].code
    assert federation.gateways["alpha"].ledger.entries() == []
    return errors[1]


def test_a_run_is_what_the_site_itself_made_of_the_document(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    run = asked(federation)
    assert (run.run, run.digest, run.document) == (federation.run, federation.digest, federation.document)
    assert (run.project, run.requester) == (federation.project, "ada")
    assert (run.base, run.opened, run.terms) == (None, None, None)
    assert (run.shape.schema.size, run.shape.bound, run.shape.bits) == (6, 1.0, 32)
    assert (run.number, run.roster, run.planned, run.epoch) == (0, (), None, None)
    assert run.last == ((0, -1), "", None)
    assert run.masked
    assert not asked(
        Federation(
            tmp_path / "clear",
            document=PingDocument.model_validate({"length": 6, "privacy": {"protect": "none"}}),
            require={"protect": "none"},
        )
    ).masked


def test_a_table_is_read_with_the_document_s_contract(tmp_path: Path) -> None:
    federation = private(tmp_path, tables={"alpha": "age,other\n30,x\n,y\n40.5,z\n"})
    run = asked(federation)
    assert run.opened is not None
    assert (run.opened.rows, run.opened.people) == (3, 3)
    assert sorted(rows_in(run.opened.descriptor).columns["age"], key=str) == [
        30.0,
        40.5,
        None,
    ]  # every other column stays unread
    assert run.terms == UnitTerms(public_size=1000, rate=1.0, noise_multiplier=None, attempts=3)


@pytest.mark.usefixtures("at_home")
def test_a_base_model_is_the_one_of_the_digest(tmp_path: Path, tiny: dict[str, BaseModel]) -> None:
    text = "sequence,gene,label\nACDEFGHIK,a,yes\nLMNPQRSTV,b,no\n"
    federation = Federation(tmp_path, document=tiny_recipe(tiny["esm"]), tables={"alpha": text})
    run = asked(federation)
    assert run.base is not None
    assert run.base.digest == tiny["esm"].digest
    other = tiny_recipe(tiny["esm"]).model_copy(
        update={"model": tiny_recipe(tiny["esm"]).model.model_copy(update={"digest": "0" * 64})}
    )
    values, digest = document_of(other)
    federation.allow("alpha", [digest])
    assert refused(federation, document=values, digest=digest).code == "model.digest_differs"


@pytest.mark.usefixtures("at_home")
def test_a_described_base_without_a_digest_is_refused_even_where_it_is_imported(
    tmp_path: Path, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever resolved the recipe saw no weights: every site could run it on others."""
    text = "sequence,gene,label\nCASS,a,no\nCASSW,b,yes\n"
    recipe = tiny_recipe(tiny["esm"])
    federation = Federation(tmp_path, document=recipe, tables={"alpha": text})
    monkeypatch.setattr("plasmid.bases.store.described", lambda name: catalogue.described("esm2-650m"))
    nobody_s = recipe.model.model_copy(update={"revision": None, "digest": None})
    values, digest = document_of(recipe.model_copy(update={"model": nobody_s}))
    federation.allow("alpha", [digest])
    assert refused(federation, document=values, digest=digest).code == "model.unpinned"


def test_the_digest_is_computed_here(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    error = refused(federation, digest="0" * 64)
    assert error.code == "protocol.digest"
    assert error.message == (f"the document's digest here is {federation.digest}, announced was {'0' * 64}.")
    assert error.hint == "Use the same release of the computation at both ends."


def test_the_policy_comes_before_the_data(tmp_path: Path) -> None:
    """Whoever is not allowed learns nothing about what there is."""
    federation = private(tmp_path, tables={})
    federation.allow("alpha", [])
    assert refused(federation).code == "policy.digest_not_allowed"
    federation.allow("alpha", [federation.digest])
    error = refused(federation)
    assert error.code == "data.not_ready", "under a privacy unit that is all that others see"
    assert error.message.startswith("data.absent: ")


# -- a budget --------------------------------------------------------------------------------------


def test_admission_reserves_the_whole_cost_and_a_question_nothing(tmp_path: Path) -> None:
    federation = private(tmp_path)
    ledger = federation.gateways["alpha"].ledger
    assert asked(federation, Ask).terms is not None
    assert ledger.entries() == []
    for _ in range(2):  # the same run again costs nothing more
        asked(federation)
    (entry,) = ledger.entries()
    kept = ("event", "run", "document", "project", "population", "unit", "epsilon", "delta", "attempts")
    assert {name: entry[name] for name in kept} == {
        "event": "reserve",
        "run": federation.run,
        "document": federation.digest,
        "project": federation.project.digest(),
        "population": "default",
        "unit": "record",
        "epsilon": 1,
        "delta": 1e-6,
        "attempts": 3,
    }


def test_a_run_that_the_budget_does_not_hold_is_refused_before_it_starts(tmp_path: Path) -> None:
    federation = private(tmp_path, document=count_document(epsilon=5.0))
    asked(federation)
    for kind in (Ask, Admit):
        with pytest.raises(PlasmidError) as caught:
            asked(federation, kind, nonce="2" * 32)
        assert caught.value.code == "policy.budget"
        assert caught.value.message == (
            "the run needs epsilon 5 and delta 1e-06; population 'default' has left epsilon 3 of 8, "
            "delta 9e-06 of 1e-05."
        )
    assert len(federation.gateways["alpha"].ledger.entries()) == 1


def test_a_population_without_a_budget_admits_no_unit(tmp_path: Path) -> None:
    error = refused(private(tmp_path, budgets={"other": BUDGET}))
    assert error.code == "policy.no_budget"


def test_without_a_unit_no_budget_is_needed_and_nothing_is_written(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    asked(federation)
    assert not federation.home("alpha").ledger.exists()


# -- a computation that nobody can look into -------------------------------------------------------


@pytest.mark.parametrize("unit", ["record"])
def test_a_finished_vector_gets_no_claim_about_a_record(tmp_path: Path, unit: str) -> None:
    privacy = {"unit": unit, "mechanism": "dp-fedsgd", "epsilon": 1.0, "delta": 1e-6, "record_clip": 1.0}
    document = PingDocument.model_validate({"length": 6, "privacy": privacy})
    error = refused(private(tmp_path, document=document, tables={}))
    assert error.code == "recipe.opaque"
    assert error.message == (
        "mechanism: dp-fedsgd clips every record; ping returns a finished vector, in which nobody can."
    )
    assert error.hint == "Use mechanism: output, which noises the vector for its whole bound."


def test_control_a_vector_for_each_record_gets_one(tmp_path: Path) -> None:
    federation = private(tmp_path)
    assert isinstance(asked(federation).document, QueryDocument)


# -- admitted before -------------------------------------------------------------------------------


def test_a_run_comes_back_after_a_restart_on_the_same_document_alone(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    marks = Marks(federation.home("alpha").runs)
    marks.claim_epoch(
        federation.run, 3, digest=federation.digest, planned=Planned(sites=3, c=1, noise_rate=0.0)
    )
    run = asked(federation)
    assert (run.number, run.epoch) == (0, None)  # its epochs are over
    other, digest = document_of(PingDocument(length=6, rounds=2, seed=1))
    federation.allow("alpha", [federation.digest, digest])
    # another document is another run; a mark that says otherwise is believed all the same
    another = asked(federation, document=other, digest=digest)
    assert another.run != run.run
    marks.claim_epoch(another.run, 1, digest="0" * 64, planned=Planned(sites=3, c=1, noise_rate=0.0))
    with pytest.raises(PlasmidError) as caught:
        asked(federation, document=other, digest=digest)
    assert caught.value.code == "protocol.epoch_used"
    assert caught.value.message == f"{another.run} was admitted here with another document."
    assert asked(federation, Ask, document=other, digest=digest).run == "ask-1"  # a question begins nothing
