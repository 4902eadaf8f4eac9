"""Row 9. Attack: a recipe's file is changed after it was checked and before it runs.

Must hold: the bytes executed are the bytes hashed; every file is read once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.protocol.body import pack
from plasmid.recipes import source
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import ResolvedRecipe, load_recipe
from plasmid.worker.bundle import forget
from support.federation.attacks import FOUR, as_csv, refusal
from support.federation.bundle_recipes import ages, computed, session, write_recipe
from support.federation.in_memory import Federation

RECIPE = """
computation: bundle
name: ages
title: Ages
data:
  columns:
    age: {type: number, bounds: [0, 120]}
bundle:
  entry: entry
  half: per_record
  tensors: {sums: [3]}
"""
APPROVED = "def per_record(state, row, settings): return [1.0, 0.0, 0.0]\n"
ANOTHER = "def per_record(state, row, settings): return [0.0, row['age'], 0.0]\n"
ORDER = {"phase": "train", "round": 1, "seed": 0, "sampling": None}


@pytest.fixture(autouse=True)
def _no_bundle_stays() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def resolved(tmp_path: Path) -> ResolvedRecipe:
    """Return a recipe whose file is changed as soon as it has been loaded."""
    folder = write_recipe(tmp_path / "ages", RECIPE, entry=APPROVED)
    found = load_recipe(folder)
    (folder / "bundle" / "entry.py").write_text(ANOTHER)
    return found


def admitted(root: Path, document: Any) -> Federation:
    """Return sites whose owners allow *document* as it is now."""
    return Federation(root, document=document, sites=FOUR, tables=dict.fromkeys(FOUR, as_csv(ages(1.0, 2.0))))


def test_control_the_changed_file_is_another_recipe_that_does_something_else(
    resolved: ResolvedRecipe,
) -> None:
    changed = load_recipe(resolved.path)
    assert changed.digest != resolved.digest
    assert computed(changed.parsed, ages(1.0, 2.0)).tolist() == [0.0, 2.0, 0.0]


def test_what_was_hashed_is_what_runs(resolved: ResolvedRecipe, tmp_path: Path) -> None:
    """From the check to the worker the text comes from the document; the file may be anything by then."""
    federation = admitted(tmp_path / "sites", resolved.parsed)
    federation.admit_all()
    run = federation.gateways["alpha"].run(federation.run)
    assert run.digest == resolved.digest == recipe_digest(run.document.model_dump(mode="json"), "bundle")
    resolved.path.with_name("bundle").joinpath("entry.py").unlink()
    at = session(run.document, ages(1.0, 2.0))
    assert at.compute((ORDER, pack("state", np.zeros(3)))).tolist() == [2.0, 0.0, 0.0]


def test_the_changed_file_is_refused_by_its_digest(resolved: ResolvedRecipe, tmp_path: Path) -> None:
    federation = admitted(tmp_path / "sites", resolved.parsed)
    changed = Federation(
        tmp_path / "others", document=load_recipe(resolved.path).parsed, sites=FOUR, tables=federation.tables
    )
    for site in FOUR:
        changed.allow(site, [resolved.digest])
    answer = changed.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "policy.digest_not_allowed")
    assert federation.admit("alpha").accepted


def test_text_that_is_changed_on_the_way_has_another_digest(resolved: ResolvedRecipe) -> None:
    for change in (
        lambda text: text + " ",
        lambda text: text.replace("1.0", "1.00"),
        lambda text: "#\n" + text,
    ):
        document = json.loads(json.dumps(resolved.document))
        document["bundle"]["files"]["entry.py"] = change(APPROVED)
        parse_document(document)  # sound, but not what was approved
        assert recipe_digest(document, "bundle") != resolved.digest


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked and kept is one and the same text: a file that says something else each time gains nothing."""
    folder = write_recipe(tmp_path / "ages", RECIPE, entry=APPROVED)
    texts, reads = [APPROVED, ANOTHER, "no Python ("], []
    original = Path.read_bytes

    def changing(path: Path) -> bytes:
        if path.suffix != ".py":
            return original(path)
        reads.append(path.name)
        return texts[len(reads) - 1].encode()

    monkeypatch.setattr(Path, "read_bytes", changing)
    found = load_recipe(folder)
    assert reads == ["entry.py"]
    assert found.files == {"entry.py": APPROVED}
    with refusal("recipe.invalid"):  # control: what a third reading would have found
        reads.append("")
        load_recipe(folder)
    assert source.code_problems({"entry.py": texts[2]}, "entry", "per_record")
