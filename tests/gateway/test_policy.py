"""The owner's policy: default deny, strict, and it never edits a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import PolicyRefused
from plasmid.gateway.ledger import Budget
from plasmid.gateway.policy import Policy, read_policy
from plasmid.models.store import BaseModel
from plasmid.recipes.query import PingDocument
from tiny_task import tiny_recipe

DIGEST = "a" * 64
MASKED = PingDocument(length=4)
CLEAR = PingDocument.model_validate({"length": 4, "privacy": {"protect": "none"}})


def refused(policy: Policy, document: Any, digest: str = DIGEST) -> PolicyRefused:
    before = document.model_dump_json()
    with pytest.raises(PolicyRefused) as caught:
        policy.check(document, digest)
    assert document.model_dump_json() == before
    return caught.value


def policy(**require: Any) -> Policy:
    return Policy.model_validate({"allow": [DIGEST], "require": require})


def test_without_a_file_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match=r"no policy at .*policy.yaml, so nothing runs") as caught:
        read_policy(tmp_path / "policy.yaml")
    assert caught.value.code == "policy.absent"


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
    assert read_policy(path).model_dump() == {
        "allow": [DIGEST],
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
    assert Policy().require.model_dump() == {
        "protect": "masked",
        "min_sites": 3,
        "min_organisations": 3,
        "max_update_clip": None,
        "unit": "none",
        "max_epsilon": None,
        "max_delta": None,
    }
    assert Policy().budgets == {}


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


def test_only_a_named_digest_runs() -> None:
    policy().check(MASKED, DIGEST)
    error = refused(policy(), MASKED, "b" * 64)
    assert error.code == "policy.digest_not_allowed"
    assert "b" * 64 in error.message


def test_the_stronger_protection_wins() -> None:
    assert refused(policy(), CLEAR).code == "policy.protection"
    assert refused(policy(protect="masked"), CLEAR).message == (
        "the document says protect: none, the policy accepts protect: masked."
    )
    policy(protect="none").check(CLEAR, DIGEST)
    policy(protect="none").check(MASKED, DIGEST)


@pytest.mark.parametrize(("asked", "given", "accepted"), [(3, 3, True), (4, 3, False), (4, 5, True)])
def test_the_larger_smallest_set_wins(asked: int, given: int, accepted: bool) -> None:
    document = PingDocument.model_validate({"length": 4, "federation": {"min_sites": given}})
    if accepted:
        policy(min_sites=asked).check(document, DIGEST)
    else:
        error = refused(policy(min_sites=asked), document)
        assert error.code == "policy.min_sites"
        assert error.message == f"the document says min_sites: {given}, the policy accepts {asked} or more."


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(("most", "accepted"), [(None, True), (10.0, True), (9.999, False)])
def test_the_smaller_clip_wins(tiny: dict[str, BaseModel], most: float | None, accepted: bool) -> None:
    recipe = tiny_recipe(tiny["esm"])
    assert recipe.privacy.update_clip == 10.0
    if accepted:
        policy(max_update_clip=most).check(recipe, DIGEST)
    else:
        error = refused(policy(max_update_clip=most), recipe)
        assert error.code == "policy.clip"
        assert error.message == "the document says update_clip: 10.0, the policy accepts up to 9.999."


def unit_document(unit: str, epsilon: float = 1.0, delta: float = 1e-6) -> PingDocument:
    privacy: dict[str, Any] = {"unit": unit, "mechanism": "output", "epsilon": epsilon, "delta": delta}
    return PingDocument.model_validate({"length": 4, "privacy": privacy})


@pytest.mark.parametrize("asked", ["none", "record", "patient", "site"])
@pytest.mark.parametrize("given", ["none", "record", "site"])
def test_the_stronger_unit_wins(asked: str, given: str) -> None:
    document = MASKED if given == "none" else unit_document(given)
    order = ("none", "record", "patient", "site")
    if order.index(given) >= order.index(asked):
        policy(unit=asked).check(document, DIGEST)
    else:
        error = refused(policy(unit=asked), document)
        assert error.code == "policy.unit"
        assert error.message == f"the document says unit: {given}, the policy accepts {asked} or stronger."


@pytest.mark.parametrize(("given", "accepted"), [(0.5, True), (2.0, True), (2.001, False)])
def test_the_smaller_epsilon_wins(given: float, accepted: bool) -> None:
    document = unit_document("record", epsilon=given)
    if accepted:
        policy(max_epsilon=2.0).check(document, DIGEST)
    else:
        error = refused(policy(max_epsilon=2.0), document)
        assert error.code == "policy.epsilon"
        assert error.message == "the document says epsilon: 2.001, the policy accepts up to 2.0."


@pytest.mark.parametrize(("given", "accepted"), [(1e-7, True), (1e-6, True), (2e-6, False)])
def test_the_smaller_delta_wins(given: float, accepted: bool) -> None:
    document = unit_document("record", delta=given)
    if accepted:
        policy(max_delta=1e-6).check(document, DIGEST)
    else:
        error = refused(policy(max_delta=1e-6), document)
        assert error.code == "policy.delta"
        assert error.message == "the document says delta: 2e-06, the policy accepts up to 1e-06."


def test_a_limit_on_epsilon_is_none_on_documents_without_a_unit() -> None:
    """Who wants a unit says so with `unit`."""
    policy(max_epsilon=0.1, max_delta=1e-9).check(MASKED, DIGEST)


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
    read_policy(path).check(MASKED, DIGEST)
    path.write_text(json.dumps({"allow": []}))
    assert refused(read_policy(path), MASKED).code == "policy.digest_not_allowed"
