"""The owner's policy: default deny, strict, and it never edits a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import PolicyRefused
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
        "require:\n  protect: none\n  min_sites: 4\n  max_update_clip: 1.5\n"
    )
    assert read_policy(path).model_dump() == {
        "allow": [DIGEST],
        "require": {"protect": "none", "min_sites": 4, "max_update_clip": 1.5},
    }


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


def test_a_policy_is_read_anew_for_each_decision(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(json.dumps({"allow": [DIGEST]}))
    read_policy(path).check(MASKED, DIGEST)
    path.write_text(json.dumps({"allow": []}))
    assert refused(read_policy(path), MASKED).code == "policy.digest_not_allowed"
