"""What is read out of a repository's files, and what of a stranger's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plasmid.hub.store.card_facts import MAX_TAGS, Facts, front_matter, read_facts

CARD = b"""---
license: Apache-2.0
library_name: peft
base_model: Plasmid/AntiBERTy
pipeline_tag: text-classification
tags: [plasmid, lora]
plasmid: {domain: immunology, organism: [human, mouse], task: classification}
model-index:
- name: x
  results:
  - metrics:
    - {type: accuracy, value: 0.5}
---

# TCR specificity #

text
"""
PROVENANCE: dict[str, Any] = {
    "run": "r-1",
    "recipe": {"name": "tcr-covid", "digest": "ab" * 32},
    "base": {"id": "antiberty"},
    "privacy": {"unit": "patient", "epsilon": 8.0, "mechanism": "dp-sgd"},
    "metrics": {"metric": "auc", "federated": 0.73, "local": {"a": 0.7}},
}
ADAPTER = {"base_model_name_or_path": "plasmid/antiberty", "revision": "0.1.3", "peft_type": "LORA"}


def facts(card: bytes = b"", **files: Any) -> Facts:
    told = {f"{name}.json": json.dumps(value).encode() for name, value in files.items()}
    return read_facts({"README.md": card, **told})


def test_the_facts_of_an_adapter() -> None:
    found = facts(
        CARD, provenance=PROVENANCE, adapter_config=ADAPTER, head={"kind": "protein", "metric": "auc"}
    )
    assert (found.title, found.words) == ("TCR specificity", ("tcr", "specificity"))
    assert (found.metric, found.epsilon) == (0.73, 8.0)
    assert found.tags == (
        "base_model:adapter:plasmid/antiberty",
        "base_model:plasmid/antiberty",
        "domain:immunology",
        "license:apache-2.0",
        "lora",
        "mechanism:dp-sgd",
        "metric:auc",
        "organism:human",
        "organism:mouse",
        "peft",
        "plasmid",
        "reads:protein",
        "task:classification",
        "text-classification",
        "unit:patient",
    )
    assert found.edges == (
        ("base", "Plasmid/AntiBERTy", "0.1.3"),
        ("run", "r-1", None),
        ("recipe", "ab" * 32, "tcr-covid"),
    )
    assert found.card["license"] == "Apache-2.0"


def test_a_merge_names_its_adapters() -> None:
    found = facts(b"---\nbase_model: [lab/a, lab/b]\nbase_model_relation: merge\n---\n")
    assert [edge[:2] for edge in found.edges] == [("merge", "lab/a"), ("merge", "lab/b")]
    assert "base_model:merge:lab/a" in found.tags
    card = b"---\nbase_model: [plasmid/antiberty, lab/a]\nbase_model_relation: merge\n---\n"
    fitted = facts(card, adapter_config=ADAPTER)
    assert fitted.edges == (("base", "plasmid/antiberty", "0.1.3"), ("merge", "lab/a", None))
    assert {"base_model:adapter:plasmid/antiberty", "base_model:merge:lab/a"} <= set(fitted.tags)
    assert facts(card[:35] + b"\n---\n", adapter_config=ADAPTER).edges[0][0] == "base"


def test_the_metric_of_a_card_counts_where_nothing_else_does() -> None:
    found = facts(CARD)
    assert (found.metric, found.epsilon) == (0.5, None)
    assert "metric:accuracy" in found.tags


@pytest.mark.parametrize(("named", "kept"), [("rmse", None), ("mae", None), ("spearman", 0.8)])
def test_a_metric_of_which_less_is_better_is_a_tag_and_in_no_order(named: str, kept: float | None) -> None:
    measured = json.dumps({"metrics": {"metric": named, "federated": 0.8}}).encode()
    found = read_facts({"provenance.json": measured})
    assert found.metric == kept
    assert f"metric:{named}" in found.tags


@pytest.mark.parametrize(
    "card",
    [
        b"\xff\xfe\0", b"---\n", b"---\n- a\n---\n", b"---\na: [\n---\n", b"---\na: &x 1\nb: *x\n---\n",
        b"---\na: .nan\n---\n",
        b"---\ntags: 7\nlicense: {a: 1}\nbase_model: [[x], 1]\nlanguage: null\nmodel-index: 5\n---\n",
        b"---\n" + b"[" * 70_000 + b"\n---\n",
        b"---\na: 2024-01-01\n---\n",
        b"---\nmodel-index: [{results: [{metrics: [{value: x}]}]}]\n---\n",
    ],
)  # fmt: skip
def test_a_strange_card_stops_nothing(card: bytes) -> None:
    found = facts(card)
    assert (found.title, found.metric) == ("", None)
    assert json.dumps(dict(found.card))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"7", b"{", b'{"a": NaN}', b"[" * 100_000, b"\xff",
        b"{" + b'"a":1,' * 200_000 + b'"b":1}',
        b'{"privacy": 7, "metrics": [1], "run": {}, "recipe": "x"}', b'{"privacy": {"epsilon": -1}}',
        b'{"privacy": {"epsilon": true, "unit": "a\\u0000b"}, "metrics": {"federated": "0.9"}}',
        b'{"privacy": {"epsilon": 1e999}, "metrics": {"federated": 1' + b"0" * 400 + b"}}",
    ],
)  # fmt: skip
def test_a_strange_json_file_stops_nothing(data: bytes) -> None:
    found = read_facts(
        dict.fromkeys(("provenance.json", "adapter_config.json", "head.json", "config.json"), data)
    )
    assert (found.metric, found.epsilon, found.edges) == (None, None, ())


def test_tags_are_capped_and_cut() -> None:
    tags = json.dumps([f"t{number}" for number in range(500)] + ["x" * 300])
    assert len(facts(f"---\ntags: {tags}\n---\n".encode()).tags) == MAX_TAGS
    assert facts(f"---\ntags: [{'x' * 300}]\n---\n".encode()).tags == ()


def test_front_matter_alone() -> None:
    assert front_matter(b"no matter\n---\n") == {}
    assert front_matter(b"---\r\nlicense: mit\r\n---\r\n") == {"license": "mit"}
