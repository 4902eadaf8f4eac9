"""Every rule is told by every way of asking: admission, ``policy explain``, ``approvals show``, the page."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.approvals import app as approvals
from plasmid.cli.verbs.policy import app as policy
from plasmid.core.clock import now
from plasmid.gateway.policy.decide import RULES
from plasmid.owner.page.approving import show_one
from plasmid.owner.page.forms import Asked
from plasmid.recipes.counts import CountsDocument
from plasmid.recipes.gain import gain_from_recipe
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from support.federation.approving import allow_approved
from support.federation.attacks import BUDGET, FOUR, count_document, refusal
from support.federation.bundle_recipes import bundle_recipe
from support.federation.in_memory import Federation
from support.federation.officer import call
from support.tiny.tiny_task import tiny_csv, tiny_recipe

AGES = "age\n30\n"
PATIENTS = "who,sex\n" + "".join(f"p{one},female\n" for one in range(20))
Change = Callable[[Federation, pytest.MonkeyPatch], None]


def nothing(federation: Federation, patch: pytest.MonkeyPatch) -> None:
    """Leave the site as it is."""


def config(**changes: Any) -> Change:
    def change(federation: Federation, _: pytest.MonkeyPatch) -> None:
        home = federation.home("alpha")
        home.write_config(home.config().model_copy(update=changes))

    return change


def without_flower(_: Federation, patch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    patch.setattr(importlib.util, "find_spec", lambda name: None if name == "flwr" else found(name))


def another_population(federation: Federation, _: pytest.MonkeyPatch) -> None:
    """Show the same patients as another population after a run."""
    federation.allow("alpha", [federation.digest])
    assert federation.admit("alpha").accepted
    federation.new_run("run-2")
    home = federation.home("alpha")
    home.views.mkdir()
    (home.views / f"{federation.document.name}.yaml").write_text("population: others\n")


def clear() -> PingDocument:
    return PingDocument.model_validate({"length": 4, "privacy": {"protect": "none"}})


def by_patient() -> CountsDocument:
    axis = {"type": "category", "column": "sex", "vocabulary": ["female", "male"]}
    return CountsDocument.model_validate(
        {"computation": "counts", "name": "by-sex", "axes": [axis], "patient": "who", "max_rows": 1000}
    )


def counted_by_rows(tiny: BaseModel) -> Recipe:
    values = tiny_recipe(tiny).model_dump(mode="json")
    values["federation"] |= {"weights": {"by": "records", "cap": 1000}}
    return Recipe.model_validate(values)


def judged(tiny: BaseModel) -> Any:
    values = tiny_recipe(tiny).model_dump(mode="json")
    values["data"] |= {"holdout": {"by": "record", "share": 0.25, "seed": 1}}
    trained_by = Recipe.model_validate(values)
    lora, head = trained_by.adapter.lora, trained_by.head()
    return gain_from_recipe(trained_by, lora=lora, head=head, base=tiny.digest, given="a" * 64)


@dataclass(frozen=True)
class Case:
    """How one rule comes to refuse what all others accept.

    Attributes
    ----------
    document
        What is asked for; the tiny base model is given.
    lax, strict
        ``require`` of the policy under which it is accepted, and refused.
    grant
        Keys of the grant that refuses.
    change
        What else is changed at the site.
    begins
        Whether the key epoch is refused, as its sites are not known before.
    code
        Of the refusal, where it is not the rule's.
    """

    document: Callable[[BaseModel], Any] = lambda _: PingDocument(length=4, rounds=4)
    lax: dict[str, Any] = field(default_factory=dict)
    strict: dict[str, Any] = field(default_factory=dict)
    grant: dict[str, Any] = field(default_factory=dict)
    change: Change = nothing
    data: str = AGES
    budgets: dict[str, Any] = field(default_factory=lambda: {"default": BUDGET})
    begins: bool = False
    code: str = ""


def private_count(_: BaseModel) -> QueryDocument:
    return count_document()


def bundled(_: BaseModel) -> Any:
    return bundle_recipe("", size=4)


def flower(_: BaseModel) -> Any:
    return bundle_recipe("app = None", half="flower", advance="update")


def closed() -> dict[str, Any]:
    """Return hours of another day."""
    return {"hours": {"zone": "UTC", "days": [f"{now() + timedelta(days=3):%a}".lower()]}}


CASES = {
    "recipes": Case(grant={"recipes": ["b" * 64]}),
    "projects": Case(grant={"projects": ["other"]}),
    "purposes": Case(grant={"purposes": ["marketing"]}),
    "views": Case(grant={"views": ["d" * 64]}),
    "protect": Case(lambda _: clear(), lax={"protect": "none"}),
    "min_sites": Case(strict={"min_sites": 4}),
    "min_organisations": Case(strict={"min_organisations": 5}, begins=True),
    "max_update_clip": Case(tiny_recipe, strict={"max_update_clip": 0.1}, data=tiny_csv(8)),
    "unit": Case(strict={"unit": "site"}),
    "max_epsilon": Case(private_count, strict={"max_epsilon": 0.5}),
    "max_delta": Case(private_count, strict={"max_delta": 1e-9}),
    "max_rounds": Case(strict={"max_rounds": 3}),
    "max_steps": Case(tiny_recipe, strict={"max_steps": 1}, data=tiny_csv(8)),
    "max_rank": Case(tiny_recipe, strict={"max_rank": 1}, data=tiny_csv(8)),
    "max_bytes_out": Case(strict={"max_bytes_out": 1}),
    "min_cohort": Case(private_count, strict={"min_cohort": 1001}),
    "row_counts": Case(counted_by_rows, lax={"row_counts": "coarse"}, data=tiny_csv(8)),
    "disclosure.max_parameters_share": Case(
        bundled, lax={"disclosure": {"max_parameters_share": None}}, strict={"disclosure": {}}
    ),
    "isolation": Case(strict={"isolation": "landlock"}),
    "hours": Case(strict=closed()),
    "judged adapter": Case(judged, data=tiny_csv(8)),
    "public size": Case(private_count, change=config(public_size=None)),
    "site half": Case(
        flower,
        lax={"disclosure": {"max_parameters_share": None}},
        strict={"disclosure": {"max_parameters_share": None}},
        change=without_flower,
        code="site.no_flower",
    ),
    "population": Case(lambda _: by_patient(), change=another_population, data=PATIENTS),
    "budgets": Case(private_count, budgets={"default": BUDGET | {"epsilon": 0.25}}),
}


def test_every_rule_has_a_case() -> None:
    assert list(CASES) == [rule.name for rule in RULES]
    assert len({rule.code for rule in RULES}) == len(RULES)


def explained(folder: Path, digest: str) -> list[str]:
    """Return the refusals that ``policy explain`` tells."""
    _, answer = call(policy, "explain", digest, "--home", folder)
    return [
        f"{one['rule']}: {one['given']}, the policy accepts {one['accepts']}."
        for one in answer["data"]["rules"]
        if not one["accepted"]
    ]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_told_alike_wherever_it_is_asked(
    name: str, tmp_path: Path, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    federation = Federation(
        tmp_path,
        document=case.document(tiny["esm"]),
        sites=FOUR,
        tables=dict.fromkeys(FOUR, case.data),
        public_size=1000,
        budgets={"default": BUDGET, "others": BUDGET},
    )
    gateway, home = federation.gateways["alpha"], federation.home("alpha")
    config(isolation="none")(federation, monkeypatch)
    allow_approved(federation)
    sections = json.loads(home.policy.read_text())
    home.policy.write_text(json.dumps(sections | {"require": case.lax}))
    waiting = federation.admit("alpha")
    assert waiting.code == "policy.awaiting_approval", waiting  # control: without the rule it is accepted
    (kept,) = gateway.approvals.files.cases()

    case.change(federation, monkeypatch)
    grant = {"recipes": [federation.digest], **case.grant}
    home.policy.write_text(json.dumps({"allow": [grant], "require": case.strict, "budgets": case.budgets}))
    code = case.code or next(rule.code for rule in RULES if rule.name == name)
    if case.begins:
        assert federation.admit("alpha").accepted
        with refusal(code):
            gateway.begin_epoch(federation.epoch())
    else:
        assert federation.admit("alpha").code == code
    (sentence,) = explained(home.folder, federation.digest)
    _, shown = call(approvals, "show", kept.subject.digest(), "--home", home.folder)
    assert shown["data"]["refused"] == [sentence]
    page = show_one(Asked(home, {"subject": kept.subject.digest()}, {}, {}))
    assert page.values["refused"] == [sentence]
