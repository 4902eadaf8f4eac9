"""A method that another package brings: found by its entry point, in the digest, told to who approves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.gateway import explanation
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import document_type
from plasmid.recipes.schema import Recipe
from support.federation.attacks import refusal
from support.tiny.method_rounds import Rounds, recipe
from support.tiny.own_method import NAME, forget, install


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith(NAME)]:
        del sys.modules[name]
    forget()


def test_the_template_is_a_method_of_some_twenty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, BaseModel]
) -> None:
    folder = install(tmp_path, monkeypatch)
    assert len([line for line in (folder / f"{NAME}.py").read_text().splitlines() if line.strip()]) <= 20
    loaded = load_recipe(folder)
    assert isinstance(loaded.parsed, Recipe)
    assert (loaded.parsed.computation, document_type(NAME)) == (NAME, Recipe)
    rounds = Rounds(tiny["esm"], NAME)
    assert "A" in rounds.method.learns(rounds.document, 3)
    assert "A" not in rounds.method.learns(rounds.document, 4)
    told = explanation._brought(NAME)
    assert told.startswith(f"{NAME}: a method of {NAME.replace('_', '-')} 0.1.0, which is installed here")


def test_the_digest_covers_its_source_and_what_that_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, BaseModel]
) -> None:
    folder = install(tmp_path, monkeypatch)
    document = recipe(tiny["esm"], NAME).model_dump(mode="json")
    before = recipe_digest(document, NAME)
    module = folder / f"{NAME}.py"
    module.write_text(module.read_text().replace("WARM = 3", "WARM = 4"))
    changed = recipe_digest(document, NAME)
    assert changed != before
    (folder / "helping_of_a_test.py").write_text("ONE = 1\n")
    # a module of another distribution is the environment's, as numpy is
    module.write_text("from helping_of_a_test import ONE\n" + module.read_text())
    assert recipe_digest(document, NAME) != changed


def test_modules_of_its_package_are_in_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, BaseModel]
) -> None:
    package = f"{NAME}_package"
    folder = install(tmp_path, monkeypatch, value=f"{package}.method")
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("")
    (folder / package / "parts.py").write_text("WARM = 3\n")
    text = (folder / f"{NAME}.py").read_text().replace("WARM = 3", "from .parts import WARM")
    (folder / package / "method.py").write_text(text)
    importlib.invalidate_caches()
    document = recipe(tiny["esm"], NAME).model_dump(mode="json")
    before = recipe_digest(document, NAME)
    (folder / package / "parts.py").write_text("WARM = 5\n")
    assert recipe_digest(document, NAME) != before


def test_a_package_cannot_take_the_name_of_a_method_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, name="rolora", value="nowhere")
    assert "rolora" not in api.brought()
    assert api.load("rolora").__name__ == "plasmid.computations.rolora"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("SITE_HALF = 'loss'\n", "lacks ADAPTER_KEYS, LINEAR, SERVER_OPTIMISERS, SITE_RANKS, adapter"),
        ("raise KeyError('CANARY-4711')\n", "ended with KeyError"),
        ("import not_installed_anywhere\n", "ended with ModuleNotFoundError"),
    ],
)
def test_a_package_that_brings_no_method_is_told(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install(tmp_path, monkeypatch)
    (folder / f"{NAME}.py").write_text(text)
    with refusal("recipe.computation_broken") as caught:
        api.load(NAME)
    assert problem in caught.value.message
    assert "CANARY-4711" not in str(caught.value)


def test_what_is_not_installed_is_no_method(tiny: dict[str, BaseModel]) -> None:
    with pytest.raises(ValidationError, match="no method here is called so; there are fedsa, fedsb,"):
        recipe(tiny["esm"], NAME)
    with refusal("recipe.computation_unknown"):
        document_type(NAME)
