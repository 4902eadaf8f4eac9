"""The owner's policy: default deny, strict, and it never edits a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.core.clock import now
from plasmid.core.errors import PolicyRefused
from plasmid.gateway.ledger import Budget
from plasmid.gateway.notify import Notify
from plasmid.gateway.policy.decide import decide
from plasmid.gateway.policy.file import Policy, read_policy
from plasmid.gateway.policy.grants import Approvers, Grant, accepting
from plasmid.gateway.policy.rule import Facts, refuse
from plasmid.protocol.identity import Identity
from plasmid.protocol.project import Project
from plasmid.recipes.query import PingDocument
from support.federation.in_memory import project_of
from support.tiny.tiny_task import tiny_recipe

DIGEST = "a" * 64
MASKED = PingDocument(length=4)
CLEAR = PingDocument.model_validate({"length": 4, "privacy": {"protect": "none"}})


def facts(document: Any, digest: str = DIGEST, project: Project | None = None, view: str = "") -> Facts:
    """Return what is known of a document before anything is opened."""
    return Facts(document, digest, project, view, now())


def check(policy: Policy, document: Any, digest: str = DIGEST, **known: Any) -> list[Grant]:
    """Refuse what *policy* does not accept; return the grants that accept it."""
    asked = facts(document, digest, **known)
    refuse(decide(policy, asked))
    return accepting(policy.allow, asked)


def refused(policy: Policy, document: Any, digest: str = DIGEST) -> PolicyRefused:
    before = document.model_dump_json()
    with pytest.raises(PolicyRefused) as caught:
        check(policy, document, digest)
    assert document.model_dump_json() == before
    return caught.value


def policy(**require: Any) -> Policy:
    return Policy.model_validate({"allow": [DIGEST], "require": require})


@pytest.mark.promise("policy-decides")
def test_without_a_file_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match=r"no policy at .*policy.yaml, so nothing runs") as caught:
        read_policy(tmp_path / "policy.yaml")
    assert caught.value.code == "policy.absent"


@pytest.mark.promise("policy-decides")
@pytest.mark.parametrize("text", ["", "{}", "allow: []", "# only a comment\n"])
def test_an_empty_policy_allows_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    assert refused(read_policy(path), MASKED).code == "policy.digest_not_allowed"


def test_a_whole_policy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"allow:\n  - {DIGEST}  # tcr-covid\n"
        "require:\n  protect: none\n  min_sites: 4\n  min_organisations: 4\n  max_update_clip: 1.5\n"
        "  unit: record\n  max_epsilon: 2.5\n  max_delta: 1.0e-6\n"
        "budgets:\n  default: {unit: record, epsilon: 8, delta: 1.0e-5}\n"
        "  ward: {unit: patient, epsilon: 4.5, delta: 1.0e-6}\n"
    )
    read = read_policy(path)
    assert read.allow == [Grant(recipes=[DIGEST])]
    assert read.model_dump(include={"require", "budgets"}, exclude_defaults=True) == {
        "require": {
            "protect": "none",
            "min_sites": 4,
            "min_organisations": 4,
            "max_update_clip": 1.5,
            "unit": "record",
            "max_epsilon": 2.5,
            "max_delta": 1e-6,
        },
        "budgets": {
            "default": {"unit": "record", "epsilon": 8.0, "delta": 1e-5},
            "ward": {"unit": "patient", "epsilon": 4.5, "delta": 1e-6},
        },
    }


def test_without_a_word_a_policy_asks_for_masks_of_three() -> None:
    assert Policy().require.model_dump(exclude_none=True) == {
        "protect": "masked",
        "min_sites": 3,
        "min_organisations": 3,
        "unit": "none",
        "row_counts": "secret",
        "isolation": "none",
        "error_detail": "sentence",
        "disclosure": {
            "min_cell": 11,
            "dominance": (2, 0.9),
            "max_parameters_share": 0.33,
            "rounding": 5,
            "zeros": "shown",
            "overlap": True,
        },
    }
    assert (Policy().allow, Policy().budgets, Policy().notify) == ([], {}, Notify())


@pytest.mark.promise("policy-decides")
@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("allow: []\nrequre: {}\n", 2, "unknown key (did you mean 'require'?)"),
        ("require:\n  min_site: 4\n", 2, "unknown key (did you mean 'min_sites'?)"),
        ("allow:\n  - not-a-digest\n", 2, "allow.0"),
        ("allow: all\n", 1, "allow"),
        ("require:\n\n  min_sites: 2\n", 3, "greater than or equal to 3"),
        ("require:\n  min_sites: '4'\n", 2, "integer"),
        ("require:\n  max_update_clip: 0\n", 2, "greater than 0"),
        ("require:\n  protect: nothing\n", 2, "'masked' or 'none'"),
        ("require:\n  min_organisations: 2\n", 2, "greater than or equal to 3"),
        ("require:\n  unit: person\n", 2, "'none', 'record', 'patient' or 'site'"),
        ("require:\n  max_epsilon: 0\n", 2, "greater than 0"),
        ("require:\n  max_delta: 1\n", 2, "less than 1"),
        (
            "budgets:\n  default: {unit: none, epsilon: 1, delta: 1.0e-5}\n",
            2,
            "'record', 'patient' or 'site'",
        ),
        ("budgets:\n  default: {unit: record, epsilon: 1}\n", 2, "delta"),
        ("budgets:\n  default: {unit: record, epsilon: .inf, delta: 1.0e-5}\n", 2, "finite"),
        ("budgets:\n  default: {unit: record, epsilon: -1, delta: 1.0e-5}\n", 2, "greater than 0"),
        ("allow:\n  - {projects: [trial]}\n", 2, "a rule names recipes, or approvers, or both"),
        ("allow:\n  - {recipe: []}\n", 2, "unknown key (did you mean 'recipes'?)"),
        ("allow:\n  - approvers: {people: [ann]}\n", 2, "quorum: is missing"),
        ("allow:\n  - approvers: {people: [ann], quorum: 2}\n", 2, "quorum asks for 2 people of 1"),
        ("allow:\n  - approvers: {people: [ann, ann], quorum: 1}\n", 2, "a person is listed twice"),
        ("allow:\n  - approvers: {people: [ann], quorum: {}}\n", 2, "quorum asks for no signature"),
        (
            "allow:\n  - approvers: {people: [ann], quorum: {seen: 1}}\n",
            2,
            "'reviewed', 'dp-reviewed' or 'appr",
        ),
        ("require:\n  max_round: 3\n", 2, "unknown key (did you mean 'max_rounds'?)"),
        ("require:\n  max_rounds: 0\n", 2, "greater than or equal to 1"),
        ("require:\n  isolation: docker\n", 2, "'bubblewrap', 'landlock' or 'none'"),
        ("require:\n  hours: {opens: '25:00'}\n", 2, "opens"),
        ("require:\n  hours: {zone: Mars/Olympus}\n", 2, "no time zone 'Mars/Olympus' on this machine"),
        ("require:\n  error_detail: all\n", 2, "'code' or 'sentence'"),
        ("notify: {webhook: 'http://chat.test/x'}\n", 1, "a webhook is an https:// address"),
        ("notify: {mail: {host: relay.test, sender: a@b.test, to: []}}\n", 1, "at least 1 item"),
        ("allow: [\n", 2, ""),
        ("- allow\n", 1, ""),
    ],
)
def test_a_policy_that_does_not_parse_allows_nothing(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(PolicyRefused) as caught:
        read_policy(path)
    assert caught.value.code == "policy.invalid"
    assert f"{path}:{line}: " in caught.value.message
    assert what in caught.value.message


@pytest.mark.promise("policy-decides")
def test_only_a_named_digest_runs() -> None:
    check(policy(), MASKED, DIGEST)
    error = refused(policy(), MASKED, "b" * 64)
    assert error.code == "policy.digest_not_allowed"
    assert "b" * 64 in error.message


def test_the_stronger_protection_wins() -> None:
    assert refused(policy(), CLEAR).code == "policy.protection"
    assert refused(policy(protect="masked"), CLEAR).message == (
        "protect: the document says protect: none, the policy accepts protect: masked."
    )
    check(policy(protect="none"), CLEAR, DIGEST)
    check(policy(protect="none"), MASKED, DIGEST)


@pytest.mark.parametrize(("asked", "given", "accepted"), [(3, 3, True), (4, 3, False), (4, 5, True)])
def test_the_larger_smallest_set_wins(asked: int, given: int, accepted: bool) -> None:
    document = PingDocument.model_validate({"length": 4, "federation": {"min_sites": given}})
    if accepted:
        check(policy(min_sites=asked), document, DIGEST)
    else:
        error = refused(policy(min_sites=asked), document)
        assert error.code == "policy.min_sites"
        assert (
            error.message
            == f"min_sites: the document says min_sites: {given}, the policy accepts {asked} or more."
        )


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(("most", "accepted"), [(None, True), (10.0, True), (9.999, False)])
def test_the_smaller_clip_wins(tiny: dict[str, BaseModel], most: float | None, accepted: bool) -> None:
    recipe = tiny_recipe(tiny["esm"])
    assert recipe.privacy.update_clip == 10.0
    if accepted:
        check(policy(max_update_clip=most), recipe, DIGEST)
    else:
        error = refused(policy(max_update_clip=most), recipe)
        assert error.code == "policy.clip"
        assert (
            error.message
            == "max_update_clip: the document says update_clip: 10.0, the policy accepts up to 9.999."
        )


def unit_document(unit: str, epsilon: float = 1.0, delta: float = 1e-6) -> PingDocument:
    privacy: dict[str, Any] = {"unit": unit, "mechanism": "output", "epsilon": epsilon, "delta": delta}
    return PingDocument.model_validate({"length": 4, "privacy": privacy})


@pytest.mark.promise("unit-demanded")
@pytest.mark.parametrize("asked", ["none", "record", "patient", "site"])
@pytest.mark.parametrize("given", ["none", "record", "site"])
def test_the_stronger_unit_wins(asked: str, given: str) -> None:
    document = MASKED if given == "none" else unit_document(given)
    order = ("none", "record", "patient", "site")
    if order.index(given) >= order.index(asked):
        check(policy(unit=asked), document, DIGEST)
    else:
        error = refused(policy(unit=asked), document)
        assert error.code == "policy.unit"
        assert (
            error.message == f"unit: the document says unit: {given}, the policy accepts {asked} or stronger."
        )


@pytest.mark.parametrize(("given", "accepted"), [(0.5, True), (2.0, True), (2.001, False)])
def test_the_smaller_epsilon_wins(given: float, accepted: bool) -> None:
    document = unit_document("record", epsilon=given)
    if accepted:
        check(policy(max_epsilon=2.0), document, DIGEST)
    else:
        error = refused(policy(max_epsilon=2.0), document)
        assert error.code == "policy.epsilon"
        assert error.message == "max_epsilon: the document says epsilon: 2.001, the policy accepts up to 2.0."


@pytest.mark.parametrize(("given", "accepted"), [(1e-7, True), (1e-6, True), (2e-6, False)])
def test_the_smaller_delta_wins(given: float, accepted: bool) -> None:
    document = unit_document("record", delta=given)
    if accepted:
        check(policy(max_delta=1e-6), document, DIGEST)
    else:
        error = refused(policy(max_delta=1e-6), document)
        assert error.code == "policy.delta"
        assert error.message == "max_delta: the document says delta: 2e-06, the policy accepts up to 1e-06."


def test_a_limit_on_epsilon_is_none_on_documents_without_a_unit() -> None:
    """Who wants a unit says so with `unit`."""
    check(policy(max_epsilon=0.1, max_delta=1e-9), MASKED, DIGEST)


def test_a_population_without_a_budget_may_spend_nothing() -> None:
    budgets = {"default": {"unit": "record", "epsilon": 8.0, "delta": 1e-5}}
    given = Policy.model_validate({"allow": [DIGEST], "budgets": budgets})
    assert given.budget("default") == Budget(unit="record", epsilon=8.0, delta=1e-5)
    with pytest.raises(PolicyRefused) as caught:
        given.budget("ward")
    assert caught.value.code == "policy.no_budget"
    assert caught.value.message == "the policy gives the population 'ward' no privacy budget."
    assert caught.value.hint == "Add it under 'budgets' in policy.yaml: {unit, epsilon, delta}."


def test_a_policy_is_read_anew_for_each_decision(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(json.dumps({"allow": [DIGEST]}))
    check(read_policy(path), MASKED, DIGEST)
    path.write_text(json.dumps({"allow": []}))
    assert refused(read_policy(path), MASKED).code == "policy.digest_not_allowed"


# -- rules -----------------------------------------------------------------------------------------

VIEW = "c" * 64
ADA = Identity.generate("ada")
SITE = Identity.generate("alpha")
TRIAL = project_of({"alpha": SITE}, {"alpha": "alpha hospital"}, ADA)


def ruled(*rules: Any, **require: Any) -> Policy:
    return Policy.model_validate({"allow": list(rules), "require": require})


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"projects": ["trial"]}, ""),
        ({"projects": [TRIAL.digest()]}, ""),
        ({"projects": ["other", "trial"]}, ""),
        ({"projects": ["other"]}, "policy.project"),
        ({"projects": []}, "policy.project"),
        ({"purposes": ["research"]}, ""),
        ({"purposes": ["marketing"]}, "policy.purpose"),
        ({"views": [VIEW]}, ""),
        ({"views": ["d" * 64]}, "policy.view"),
        ({"projects": ["trial"], "purposes": ["marketing"]}, "policy.purpose"),
    ],
)
def test_a_rule_opens_for_its_projects_purposes_and_views_alone(rule: dict[str, Any], code: str) -> None:
    given = ruled({"recipes": [DIGEST], **rule})
    found = [one for one in decide(given, facts(MASKED, DIGEST, TRIAL, VIEW)) if not one.accepted]
    assert [one.code for one in found] == ([code] if code else [])
    if code:
        assert accepting(given.allow, facts(MASKED, DIGEST, TRIAL, VIEW)) == []
    else:
        assert check(given, MASKED, DIGEST, project=TRIAL, view=VIEW) == given.allow


def test_a_rule_that_names_a_project_opens_for_no_run_without_one() -> None:
    for rule in ({"projects": ["trial"]}, {"purposes": ["research"]}):
        with pytest.raises(PolicyRefused):
            check(ruled({"recipes": [DIGEST], **rule}), MASKED, DIGEST, view=VIEW)


def test_approvals_are_about_a_project() -> None:
    rule = {"approvers": {"people": ["ann"], "quorum": 1}}
    assert check(ruled(rule), MASKED, "b" * 64, project=TRIAL, view=VIEW)[0].approvers is not None
    error = refused(ruled(rule), MASKED, "b" * 64)
    assert error.code == "policy.project"
    assert error.message == "projects: the run is of no project, the policy accepts any project."


def test_the_refusal_is_that_of_the_rule_that_fits_best() -> None:
    given = ruled(
        {"recipes": ["b" * 64]},
        {"recipes": [DIGEST], "projects": ["x"], "purposes": ["y"]},
        {"recipes": [DIGEST], "projects": ["x"]},
    )
    with pytest.raises(PolicyRefused) as caught:
        check(given, MASKED, DIGEST, project=TRIAL, view=VIEW)
    assert (caught.value.code, caught.value.message) == (
        "policy.project",
        "projects: the run is of the project trial, the policy accepts x.",
    )


def test_one_rule_that_accepts_is_enough_and_rules_do_not_add_up() -> None:
    rules = ({"recipes": [DIGEST], "projects": ["x"]}, {"recipes": [DIGEST], "purposes": ["research"]})
    assert check(ruled(*rules), MASKED, DIGEST, project=TRIAL) == [Grant.model_validate(rules[1])]
    split = ({"recipes": ["b" * 64], "projects": ["trial"]}, {"recipes": [DIGEST], "projects": ["x"]})
    with pytest.raises(PolicyRefused):
        check(ruled(*split), MASKED, DIGEST, project=TRIAL)


def test_all_refusals_are_told_at_once_and_the_first_one_gives_the_code() -> None:
    document = PingDocument.model_validate({"length": 4, "rounds": 9, "privacy": {"protect": "none"}})
    error = refused(ruled(DIGEST, unit="record", max_rounds=5), document, "b" * 64)
    assert error.code == "policy.digest_not_allowed"
    assert error.message.splitlines() == [
        f"allow: the digest is {'b' * 64}, the policy accepts {DIGEST}.",
        "protect: the document says protect: none, the policy accepts protect: masked.",
        "unit: the document says unit: none, the policy accepts record or stronger.",
        "max_rounds: the document says rounds: 9, the policy accepts up to 5.",
    ]
    assert "'allow' in policy.yaml" in error.hint


def test_a_long_list_is_shortened_in_a_message() -> None:
    error = refused(ruled(*("0123456789abcdef"[n] * 64 for n in range(5))), MASKED, DIGEST)
    assert error.message.endswith("and 2 more.")


@pytest.mark.parametrize(
    ("quorum", "needed"),
    [(2, {"approved": 2}), ({"approved": 1, "dp-reviewed": 2}, {"approved": 1, "dp-reviewed": 2})],
)
def test_a_quorum_counts_people_or_people_for_each_meaning(quorum: Any, needed: dict[str, int]) -> None:
    assert Approvers.model_validate({"people": ["ann", "bob"], "quorum": quorum}).needed == needed
