"""The lines of ``require``: each accepts or refuses one value, and says which it would accept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.core.clock import now, parse
from plasmid.data.settings import Connections, ViewFile
from plasmid.data.table import Table
from plasmid.disclosure.cells import CellRules
from plasmid.disclosure.suppression import rules
from plasmid.gateway.open_view import Opened
from plasmid.gateway.policy.decide import REQUIRED
from plasmid.gateway.policy.figures import cohort, most_bytes
from plasmid.gateway.policy.require import Requirements
from plasmid.gateway.policy.rule import Facts, Finding
from plasmid.gateway.views import Slice
from plasmid.planner.attempts import attempt_plan, attempts
from plasmid.protocol.body import body_bytes
from plasmid.protocol.messages import Planned
from plasmid.recipes.catalogue import ls
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from plasmid.recipes.trees import TreesRecipe
from plasmid.recipes.weights import weights_of
from plasmid.secagg.ring import TAIL
from support.federation.attacks import count_document
from support.federation.bundle_recipes import RECORD, bundle_recipe
from support.federation.in_memory import document_of
from support.tiny.tiny_task import tiny_recipe

NOON = parse("2026-11-25T12:00:00Z")
PING = PingDocument(length=6, rounds=4)


def findings(
    require: Requirements, document: Any, *, now: datetime = NOON, size: int | None = None, **known: Any
) -> list[Finding]:
    """Return what the lines of *require* say of a document, in their order."""
    known["part"] = Slice(ViewFile(), Connections(), None, "default", size)
    facts = Facts(document, "a" * 64, None, "", now, **known)
    return [said for rule in REQUIRED for said in rule.look(require, facts)]


def here(
    require: Requirements, document: Any, shape: api.Shape, view: Opened | None, size: int | None = None
) -> list[Finding]:
    """Return what the lines say that need the vector's shape or the view."""
    return [
        one
        for one in findings(require, document, shape=shape, opened=view, size=size)
        if one.rule in ("max_bytes_out", "min_cohort", "disclosure.max_parameters_share")
    ]


def one(document: Any, **require: Any) -> Finding:
    """Return the one finding about the line that is given, beside those that are always there."""
    always = {"protect", "min_sites", "unit"}
    found = findings(Requirements.model_validate(require), document)
    (only,) = [finding for finding in found if finding.rule not in always]
    return only


@pytest.mark.parametrize(("most", "accepted"), [(4, True), (5, True), (3, False)])
def test_the_smaller_number_of_rounds_wins(most: int, accepted: bool) -> None:
    found = one(PING, max_rounds=most)
    assert (found.code, found.rule, found.accepted) == ("policy.rounds", "max_rounds", accepted)
    assert found.sentence == f"max_rounds: the document says rounds: 4, the policy accepts up to {most}."


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("add", [0, -1])
def test_the_smaller_number_of_steps_and_the_smaller_rank_win(tiny: dict[str, BaseModel], add: int) -> None:
    recipe = tiny_recipe(tiny["esm"])
    steps, rank = recipe.training.steps, recipe.adapter.lora.rank
    for name, given in (("steps", steps), ("rank", rank)):
        if given + add < 1:
            continue
        found = one(recipe, **{f"max_{name}": given + add})
        assert (found.code, found.accepted) == (f"policy.{name}", add == 0)
        assert found.sentence == (
            f"max_{name}: the document says {name}: {given}, the policy accepts up to {given + add}."
        )


def test_a_limit_that_a_document_has_no_value_for_says_nothing() -> None:
    limits = Requirements(max_steps=1, max_rank=1, max_update_clip=0.1, max_epsilon=0.1)
    rules = [finding.rule for finding in findings(limits, PING)]
    assert rules == ["protect", "min_sites", "unit"]


def test_outside_the_hours_the_next_opening_is_told() -> None:
    hours = {"zone": "UTC", "days": ["mon", "wed"], "opens": "08:00", "closes": "12:00"}
    found = one(PING, hours=hours)
    assert (found.code, found.accepted) == ("policy.hours", False)
    assert found.sentence == (
        "hours: it is 2026-11-25T12:00:00Z, the policy accepts mon, wed from 08:00 to 12:00 (UTC), "
        "and opens next at 2026-11-30T08:00:00Z."
    )
    assert one(PING, hours=hours | {"closes": "12:01"}).accepted


def shape_of(document: Any) -> api.Shape:
    return api.load(document.computation).shape(document, None)


COUNT = count_document()
ROTATED = COUNT.model_copy(update={"privacy": COUNT.privacy.model_copy(update={"rotation": "hadamard"})})


@pytest.mark.parametrize("document", [PING, COUNT, ROTATED])
def test_the_bytes_of_a_run_are_those_that_it_plans_or_more(document: Any) -> None:
    shape = shape_of(document)
    rate = 1.0 if document.privacy.shares_noise else 0.0
    planned_for = Planned(sites=4, c=1, noise_rate=rate)
    plan = attempt_plan(document, shape, sites=4, c=1, planned=planned_for)
    planned = attempts(document) * body_bytes("words", plan.encoding.length + TAIL, plan.encoding.dtype)
    assert planned <= most_bytes(document, shape) <= 2 * planned + 100
    if not document.privacy.shares_noise:
        assert planned == most_bytes(document, shape)


def test_more_bytes_than_the_policy_lets_out_are_refused() -> None:
    shape = shape_of(PING)
    most = most_bytes(PING, shape)
    for limit, accepted in ((most, True), (most - 1, False)):
        (found,) = here(Requirements(max_bytes_out=limit), PING, shape, None)
        assert (found.code, found.accepted) == ("policy.bytes_out", accepted)
        assert (
            found.sentence
            == f"max_bytes_out: the run may send {most:,} bytes, the policy accepts up to {limit:,}."
        )


def patients(*cells: str | None) -> Table:
    return Table({"who": list(cells)}, len(cells))


class WithPatients:
    """What of a document the count of people reads."""

    class data:
        patient = "who"


def test_a_cohort_is_counted_in_patients_where_there_are_any() -> None:
    assert cohort(Opened(None, None, rows=4, people=3, by_patient=True)) == (3, "patients")
    assert cohort(Opened(None, None, rows=4, people=4)) == (4, "rows")


@pytest.mark.parametrize(("least", "accepted"), [(2, True), (3, True), (4, False)])
def test_a_small_cohort_is_refused(least: int, accepted: bool) -> None:
    document = QueryDocument(name="ages", column="age", bounds=(0.0, 120.0), max_rows=1000)
    view = Opened(None, None, rows=3, people=3)
    (found,) = here(Requirements(min_cohort=least), document, shape_of(document), view, 1)
    assert (found.code, found.accepted) == ("policy.cohort", accepted)
    assert found.sentence == f"min_cohort: the view has 3 rows here, the policy accepts {least} or more."


@pytest.mark.parametrize(("size", "told"), [(3, "3"), (2, "2"), (None, "not declared")])
@pytest.mark.parametrize("people", [1, 3, 100])
def test_under_a_unit_the_public_size_is_the_cohort(people: int, size: int | None, told: str) -> None:
    document, view = count_document(), Opened(None, None, rows=people, people=people)
    (found,) = here(Requirements(min_cohort=3), document, shape_of(document), view, size)
    assert (found.code, found.accepted) == ("policy.cohort", size == 3)
    assert found.sentence == f"min_cohort: the view's public_size is {told}, the policy accepts 3 or more."


def test_a_count_of_rows_leaves_only_where_the_policy_says_so(tiny: dict[str, BaseModel]) -> None:
    plain = tiny_recipe(tiny["esm"]).model_dump(mode="json")

    def judged(weights: dict[str, Any] | None, **require: Any) -> list[Finding]:
        document = Recipe.model_validate(plain | {"federation": plain["federation"] | {"weights": weights}})
        found = findings(Requirements(**require), document, now=now())
        return [one for one in found if one.rule == "row_counts"]

    records = {"by": "records", "cap": 1000}
    (refused,) = judged(records)
    assert (refused.code, refused.accepted) == ("policy.row_counts", False)
    assert refused.sentence == (
        "row_counts: the document counts sites by their rows, the policy accepts row_counts: secret."
    )
    assert [one.accepted for one in judged(records, row_counts="coarse")] == [True]
    assert judged({"by": "public", "sites": {"north": 2.0}, "others": 1.0}) == judged(None) == []


def test_no_shipped_recipe_counts_rows() -> None:
    for name in ls():
        weights = weights_of(load_recipe(name).parsed)
        assert weights is None or weights.by == "public", name


@pytest.mark.parametrize(("rows", "accepted"), [(12, True), (11, False)])
def test_python_of_a_recipe_returns_at_most_a_third_as_many_numbers_as_there_are_people(
    rows: int, accepted: bool
) -> None:
    document = bundle_recipe("", size=4)
    view = Opened(None, None, rows=rows, people=rows)
    (found,) = here(
        Requirements.model_validate({"disclosure": {"max_parameters_share": 1 / 3}}),
        document,
        shape_of(document),
        view,
    )
    assert (found.code, found.accepted) == ("policy.parameters", accepted)
    assert found.sentence == (
        "disclosure.max_parameters_share: the vector holds 4 numbers about "
        f"{rows} rows here, the policy accepts up to 0.333333 for each."
    )
    off = Requirements.model_validate({"disclosure": {"max_parameters_share": None}})
    assert list(here(off, document, shape_of(document), view)) == []
    private = bundle_recipe("", size=4, privacy=RECORD)
    assert list(here(Requirements(), private, shape_of(private), view)) == []


def test_a_level_of_a_tree_without_a_unit_is_bounded_alike() -> None:
    trees = TreesRecipe.model_validate(
        {
            "computation": "trees",
            "name": "tiny",
            "title": "Tiny",
            "task": {"kind": "classification", "labels": ["no", "yes"], "metric": "auc"},
            "data": {
                "label": "y",
                "columns": {"x": {"type": "number", "bounds": [0, 9]}, "y": {"type": "label"}},
            },
            "trees": {"count": 1, "depth": 2, "features": [{"column": "x", "edges": [1, 2, 3]}]},
        }
    )
    numbers = 2 * 2 * 4
    for rows, accepted in ((49, True), (48, False)):
        view = Opened(None, None, rows=rows, people=rows)
        (found,) = here(Requirements(), trees, shape_of(trees), view)
        assert (found.code, found.accepted) == ("policy.parameters", accepted)
        assert f"holds {numbers} numbers" in found.sentence


def test_the_rules_against_disclosure_are_in_force_unless_one_is_turned_off() -> None:
    assert rules(Requirements().disclosure, None) == CellRules()
    assert rules(Requirements().disclosure, 50) == CellRules(min_cohort=50)
    given = {"min_cell": None, "dominance": None, "rounding": None, "max_parameters_share": None}
    off = rules(Requirements.model_validate({"disclosure": given}).disclosure, None)
    assert off == CellRules(
        min_cohort=None, min_cell=None, dominance=None, rounding=None, max_parameters_share=None
    )
    for wrong in ({"dominance": [3, 0.9]}, {"dominance": [2, 1.0]}, {"min_cell": 1}, {"rounding": 0}):
        with pytest.raises(ValidationError):
            Requirements.model_validate({"disclosure": wrong})


def test_a_document_without_data_has_no_cohort() -> None:
    assert list(here(Requirements(min_cohort=100), PING, shape_of(PING), None)) == []


@pytest.mark.promise("policy-decides")
def test_a_policy_changes_no_document() -> None:
    before = document_of(PING)
    findings(Requirements(max_rounds=1, min_sites=5), PING)
    assert document_of(PING) == before
