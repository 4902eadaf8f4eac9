"""The table of extras is that of ``pyproject.toml``, and a verb says in one sentence what it needs."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from plasmid.cli.main import app
from plasmid.core import extras
from plasmid.core.errors import UsageError

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OTHERS = {"bench", "data", "demo", "dev"}
"""Extras that no module of Plasmid imports from: for benchmarks and developers, wheels of weights, and extras
of extras."""


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(re.split(r"[<>=\[ ]", line)[0]) for line in requirements} - {"plasmid"}


def test_the_table_has_the_extras_of_the_project() -> None:
    assert set(extras.EXTRAS) | OTHERS == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_each_module_comes_with_its_extra_and_each_package_has_a_module(extra: str) -> None:
    known = packages_distributions()
    brought = names(PROJECT["optional-dependencies"][extra])
    found = {module: set(map(canonicalize_name, known[module])) for module in extras.EXTRAS[extra]}
    assert brought - set().union(*found.values()) == set()
    indirect = {"regex"} if extra == "deidentify" else set()  # presidio-analyzer's own
    assert {module for module, packages in found.items() if not brought & packages} == indirect


def test_an_extra_includes_those_that_the_project_says() -> None:
    for extra in extras.EXTRAS:
        said = [line for line in PROJECT["optional-dependencies"][extra] if line.startswith("plasmid[")]
        included = {name for line in said for name in line[len("plasmid[") : -1].split(",")}
        assert included == set(extras.INCLUDES.get(extra, ())), extra


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module not in ("jinja2", "torch"))
    assert extras.lacking("platform") == ["torch", "jinja2"]
    with pytest.raises(UsageError) as caught:
        extras.need("worker")
    assert (caught.value.code, caught.value.hint) == (
        "usage.extra_missing",
        "Install it: pip install 'plasmid[worker]'.",
    )
    assert caught.value.message == (
        "this command needs the extra worker, of which is not installed: torch, jinja2."
    )
    extras.need("flower")  # the control


def test_a_module_that_is_no_extra_s_is_named_without_one() -> None:
    assert "pip check" in extras.not_importable(ModuleNotFoundError(name="httpcore")).hint
    assert "plasmid[page]" in extras.not_importable(ModuleNotFoundError(name="starlette.routing")).hint


NEEDS = {
    "worker": (
        "site start", "doctor --red-team", "data connect a b", "data map tcr-covid", "data check tcr-covid",
        "recipes check tcr-covid", "recipes estimate tcr-covid", "models import antiberty", "serve --local",
        "predict a --data x --out y", "evaluate a --data x", "hub merge a b --out c", "hub export a --out c",
    ),
    "page": ("site page",),
    "platform": ("run tcr-covid", "runs ls", "query mean --column age", "compare tcr-covid", "login x",
                 "coordinator init --host x", "export x", "hub user ls"),
}  # fmt: skip


@pytest.mark.parametrize(("extra", "command"), [(extra, one) for extra in NEEDS for one in NEEDS[extra]])
def test_a_verb_that_needs_an_extra_says_so_first(
    extra: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With none of the extras there: one sentence, one command to type, and no traceback."""
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    monkeypatch.setattr(extras, "is_installed", lambda module: False)
    done = CliRunner().invoke(app, [*command.split(), "--format", "json"])
    error = done.exception
    if not isinstance(error, UsageError):  # a verb of the platform fails before it is imported
        error = extras_error(done.output)
    assert error.code == "usage.extra_missing"
    assert f"needs the extra {extra}, " in error.message
    assert error.hint == f"Install it: pip install 'plasmid[{extra}]'."
    assert not list(tmp_path.iterdir())


def extras_error(output: str) -> UsageError:
    return UsageError(**json.loads(output.strip().splitlines()[-1])["error"])


def test_the_importer_in_a_child_says_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe's base is converted in a child process: where it lacks torch, its parent can say so."""
    importer = importlib.import_module("plasmid.bases.importer")

    def lacks(_: object) -> None:
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setattr(importer, "import_entry", lacks)
    assert importer.main(["minilm"]) == 1
    error = json.loads(capsys.readouterr().out)
    assert (error["code"], error["hint"]) == (
        "usage.extra_missing",
        "Install it: pip install 'plasmid[worker]'.",
    )
