"""What the gateway asks of a site half before it admits a run."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

import pytest

from plasmid.computations import api
from plasmid.gateway.explanation import explain
from plasmid.gateway.policy import site_half
from plasmid.gateway.policy.site_half import check_half
from plasmid.recipes.bundle import BundleRecipe
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import PingDocument, QueryDocument
from support.federation.approving import add_people, allow_approved, sign
from support.federation.attacks import BUDGET, FOUR, refusal
from support.federation.bundle_recipes import RECORD, bundle_recipe
from support.federation.in_memory import Federation

CODE = "def per_record(state, row, settings): return [1.0, 0.0, 0.0]"
PRIVATE = bundle_recipe(CODE, privacy=RECORD)


def admitted(root: Path, document: BundleRecipe = PRIVATE) -> tuple[bool, str]:
    """Return what a site answers to a run of *document*."""
    federation = Federation(
        root,
        document=document,
        sites=FOUR,
        tables=dict.fromkeys(FOUR, "age\n30\n"),
        public_size=1000,
        budgets={"default": BUDGET},
    )
    answer = federation.admit("alpha")
    return answer.accepted, answer.code


def test_a_host_that_cannot_keep_records_apart_takes_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert admitted(tmp_path / "linux") == (True, "")
    monkeypatch.setattr(site_half, "lacking", lambda: "there is no lock for darwin on arm64")
    assert admitted(tmp_path / "darwin") == (False, "site.no_lock")


@pytest.mark.parametrize(
    "document",
    [
        bundle_recipe(CODE),
        QueryDocument(name="ages", column="age", bounds=(0.0, 1.0)),
        PingDocument(length=3),
    ],
)
def test_nothing_else_needs_the_lock(document: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_half, "lacking", lambda: "there is none")
    computation = api.load(document.computation)  # type: ignore[attr-defined]
    check_half(computation, document)
    with refusal("site.no_lock"):
        check_half(api.load("bundle"), PRIVATE)


def test_a_site_without_flower_takes_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for and not imported: that a module is in the way of the import shows nothing."""
    document = bundle_recipe("app = None", half="flower", advance="update")
    monkeypatch.setitem(sys.modules, "flwr.clientapp", None)
    assert admitted(tmp_path / "with", document) == (True, "")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "flwr" else found(name))
    assert admitted(tmp_path / "without", document) == (False, "site.no_flower")
    assert admitted(tmp_path / "other") == (True, "")
    with refusal("site.no_flower") as caught:
        check_half(api.load("bundle"), document)
    assert "pip install 'plasmid[flower]'" in str(caught.value)


def test_a_site_without_rdkit_takes_no_part_where_fragments_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_recipe("water-solubility", overrides={"adapter.covariates": "[]"}).recipe
    reads = load_recipe("water-solubility", overrides={"adapter.covariates": "[smiles]"}).recipe
    method = api.load("finetune")
    check_half(method, reads)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rdkit" else found(name))
    check_half(method, plain)
    with refusal("site.no_rdkit") as caught:
        check_half(method, reads)
    assert "pip install 'plasmid[molecules]'" in str(caught.value)


def test_an_approver_reads_that_it_is_an_app_of_flower(tmp_path: Path) -> None:
    document = bundle_recipe("app = None", half="flower", advance="update")
    federation = Federation(tmp_path, document=document, sites=FOUR, tables=dict.fromkeys(FOUR, "age\n30\n"))
    facts = explain(federation.home("alpha"), None, document, federation.project)
    told = {fact.name: fact.value for fact in facts if fact.section == "what runs"}
    assert told["Python of its own"] == "entry.py (10 bytes); it runs in the sandbox"
    assert told["Flower ClientApp"] == "once a round; it gets all rows as a file. Its metrics are dropped"


def test_a_patch_release_of_the_node_leaves_approvals_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folder, approved by people under one release, opened by the next; another API is not it."""
    federation = Federation(
        tmp_path,
        document=PRIVATE,
        sites=FOUR,
        tables=dict.fromkeys(FOUR, "age\n30\n"),
        public_size=1000,
        budgets={"default": BUDGET},
    )
    allow_approved(federation)
    approvals = add_people(federation)
    assert federation.admit("alpha").code == "policy.awaiting_approval"
    (case,) = approvals.files.cases()
    for name in ("ann", "bob"):
        sign(approvals, case, name)
    assert federation.admit("alpha").accepted
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1.99" if name == "plasmid" else version(name))
    assert federation.restart("alpha").answer(federation.admitting()).accepted
    federation.new_run("another run of it")
    assert federation.admit("alpha").accepted
    monkeypatch.setattr("plasmid.recipes.digest.API_VERSION", "99")
    assert federation.admit("alpha").code == "protocol.digest"
