"""The examples in ``configs/`` are what the node reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import policy_doc
from plasmid.cli.verbs.site_peers import PeersFile
from plasmid.core.settings import read_settings
from plasmid.gateway.policy.file import Policy, read_policy
from plasmid.gateway.policy.grants import Approvers, Grant
from plasmid.gateway.policy.require import Requirements

CONFIGS = Path(__file__).parent.parent / "configs"


def test_the_example_policy_allows_nothing_yet() -> None:
    assert read_policy(CONFIGS / "policy.example.yaml") == Policy(allow=[], require=Requirements())


def fields(model: type[BaseModel]) -> set[str]:
    """Return the names of the fields of *model* and of the models within it."""
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for within in (field.annotation, *get_args(field.annotation)):
            if isinstance(within, type) and issubclass(within, BaseModel):
                found |= fields(within)
    return found


KEYS = fields(Policy) | fields(Grant) | fields(Approvers)


def with_every_example() -> str:
    """Return the example policy with its commented lines in force."""
    text = (CONFIGS / "policy.example.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^(allow|budgets|notify): (\[\]|\{\})", r"\1:", text, flags=re.MULTILINE)
    return re.sub(r"^( +)# ", r"\1", text, flags=re.MULTILINE)


def test_every_commented_example_of_the_policy_can_be_put_in_force(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(with_every_example())
    policy = read_policy(path)
    assert [len(policy.allow), len(policy.budgets)] == [3, 1]
    assert policy.allow[2].approvers is not None
    assert policy.allow[2].approvers.needed == {"reviewed": 1, "dp-reviewed": 1, "approved": 2}
    for part in (policy.require, policy.notify):
        assert part.model_fields_set == set(type(part).model_fields)
    given = set().union(*(rule.model_fields_set for rule in policy.allow))
    assert given | policy.allow[2].approvers.model_fields_set == fields(Grant) | fields(Approvers)


@pytest.mark.parametrize("path", policy_doc.PAGES)
def test_what_follows_from_the_rules_is_what_the_source_gives(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == policy_doc.page(path), "run 'make docs'"


def test_every_key_of_a_policy_is_documented() -> None:
    text = (CONFIGS.parent / "docs/gateway/policy.md").read_text(encoding="utf-8")
    assert {key for key in KEYS if not re.search(rf"\b{key}\b", text)} == set()


def test_the_example_peers_are_two_sites() -> None:
    assert [p.name for p in read_settings(CONFIGS / "peers.example.yaml", PeersFile).sites] == [
        "hospital-a",
        "hospital-b",
    ]


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in CONFIGS.iterdir()) == ["peers.example.yaml", "policy.example.yaml"]
