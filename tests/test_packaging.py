"""What a wheel of the four roots holds, and what the documents say about what it needs."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOTS = ("models", "recipes", "node", "platform")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTICE = (REPOSITORY / "NOTICE").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel as pip would, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def sources() -> set[str]:
    """Return the name in a wheel of every file under the four roots."""
    return {
        path.relative_to(REPOSITORY / root).as_posix()
        for root in ROOTS
        for path in (REPOSITORY / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def requirements() -> set[str]:
    """Return the names of the dependencies, those of the extras included; one extra may name others."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {re.split(r"[<>=\[ ]", line)[0] for lines in lists for line in lines} - {"plasmid"}


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    information = f"plasmid-{PROJECT['version']}.dist-info/"
    assert {name for name in wheel.namelist() if not name.startswith(information)} == sources()


def test_recipes_data_and_type_markers_are_in_it(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    catalogue = "plasmid/recipes/catalogue/"
    donors = [name for name in names if name.startswith(f"{catalogue}tcr-covid/data/donor_")]
    assert len(donors) == 8
    for name in (
        "tcr-covid/recipe.yaml",
        "phenotype/recipe.yaml",
        "phenotype/data/phenotype_definitions.csv",
    ):
        assert f"{catalogue}{name}" in names
    markers = {name.split("/")[1] for name in names if re.fullmatch(r"plasmid/\w+/py\.typed", name)}
    assert markers == {name.split("/")[1] for name in names if name.startswith("plasmid/")}


def test_licence_and_notice_are_in_it(wheel: zipfile.ZipFile) -> None:
    licences = f"plasmid-{PROJECT['version']}.dist-info/licenses/"
    assert "Apache License" in wheel.read(f"{licences}LICENSE").decode()
    assert "ImmuneCODE" in wheel.read(f"{licences}NOTICE").decode()


def test_every_verb_is_a_file_with_one_line_of_help(wheel: zipfile.ZipFile) -> None:
    points = configparser.ConfigParser(delimiters=("=",))
    points.read_string(wheel.read(f"plasmid-{PROJECT['version']}.dist-info/entry_points.txt").decode())
    verbs = dict(points["plasmid.verbs"])
    assert "run" in verbs
    for verb, target in verbs.items():
        module, _, attribute = target.partition(":")
        tree = ast.parse(wheel.read(module.replace(".", "/") + ".py"))
        help_line = (ast.get_docstring(tree) or "").partition("\n")[0]
        assert 0 < len(help_line) <= 100, f"{verb}: {help_line!r}"
        assert help_line.endswith("."), f"{verb}: {help_line!r}"
        assigned = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert attribute in assigned, f"{verb}: {target}"


def test_every_dependency_has_a_decision_and_a_licence() -> None:
    records = "".join(
        path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs/decisions").glob("*.md")
    )
    notice = NOTICE.partition("\nDEPENDENCIES\n")[2]
    licensed = set(re.findall(r"(?<=[ ,(])[a-z0-9][\w.-]*\w(?=[ ,\n(])", notice))
    assert {name for name in requirements() if f"| `{name}` |" not in records} == set()
    assert requirements() - licensed == set()


def test_every_shipped_recipe_and_base_model_is_in_the_notice() -> None:
    recipes = (REPOSITORY / "recipes/plasmid/recipes/catalogue").glob("*/recipe.yaml")
    for path in recipes:
        assert f"catalogue/{path.parent.name}/" in NOTICE
    for name in PROJECT["optional-dependencies"]["demo"]:
        assert name in NOTICE
