"""A recipe's Python: read once, part of the digest, declared, and told about with file and line."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from plasmid.computations.api import API_VERSION
from plasmid.core.canonical import canonical_json, digest_json, sha256_hex
from plasmid.core.errors import UsageError
from plasmid.recipes import templates
from plasmid.recipes.bundle import BundleRecipe
from plasmid.recipes.code_text import code_of
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import load_recipe
from plasmid.recipes.python import MAX_BYTES, MAX_FILES
from plasmid.recipes.schema import Recipe
from plasmid.recipes.source import code_problems, imports, not_installed
from support.federation.attacks import refusal
from support.federation.bundle_recipes import OUTPUT, RECORD, bundle_recipe, write_recipe

AGES = """
computation: bundle
name: ages
title: Ages
data:
  columns:
    age: {type: number, bounds: [0, 120]}
  max_rows: 50
bundle:
  entry: ages
  half: per_record
  tensors: {counts: [12]}
"""
FLOWER = {"half": "flower", "advance": "update"}
CODE = "from .other import decade\n\ndef per_record(state, row, settings):\n    return decade(row['age'])\n"
OTHER = "import numpy\n\ndef decade(age):\n    return numpy.zeros(12)\n"


def ages(folder: Path, text: str = AGES, **files: str) -> Path:
    """Write the folder of a sound recipe, changed."""
    return write_recipe(folder, text, **{"ages": CODE, "other": OTHER, **files})


def problems(path: Path, **changes: str) -> list[str]:
    """Return the problems of the recipe in *path*, each without the folder's name."""
    with refusal("recipe.invalid") as caught:
        load_recipe(path, overrides=changes)
    return [line.strip().replace(f"{path}/", "") for line in str(caught.value.message).splitlines()[1:]]


# -- the text is the document's ----------------------------------------------------------------------


def test_the_document_holds_the_text_of_every_file_and_the_digest_covers_it(tmp_path: Path) -> None:
    resolved = load_recipe(ages(tmp_path / "a"))
    assert isinstance(resolved.parsed, BundleRecipe)
    assert resolved.files == resolved.document["bundle"]["files"] == {"ages.py": CODE, "other.py": OTHER}
    assert load_recipe(ages(tmp_path / "b")).digest == resolved.digest
    for number, files in enumerate(({"ages": CODE + "# a comment\n"}, {"other": OTHER[:-1]}, {"third": ""})):
        assert load_recipe(ages(tmp_path / f"c{number}", **files)).digest != resolved.digest


def test_a_document_travels_as_it_is(tmp_path: Path) -> None:
    resolved = load_recipe(ages(tmp_path / "a", other=OTHER.replace("\n", "\r\n") + "# é \U0001f9ec\n"))
    arrived = json.loads(canonical_json(resolved.document))
    assert parse_document(arrived).model_dump(mode="json") == resolved.document
    assert recipe_digest(arrived, "bundle") == resolved.digest


def test_the_digest_follows_from_document_source_and_api_and_not_from_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a patch release of the node leaves approvals as they are, and another API does not."""
    resolved = load_recipe(ages(tmp_path / "a"))
    sources = {}
    for name in ("_algebra", "bundle"):
        spec = find_spec(f"plasmid.computations.{name}")
        assert spec is not None
        assert spec.origin is not None
        sources[name] = sha256_hex(code_of(Path(spec.origin).read_bytes()))
    parts = {
        "document": resolved.document,
        "computation_sources": sources,
        "computation_api": API_VERSION,
    }
    approved = resolved.digest
    assert approved == digest_json(parts)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0.0")
    assert load_recipe(ages(tmp_path / "b")).digest == approved
    monkeypatch.setattr("plasmid.recipes.digest.API_VERSION", "99")
    assert load_recipe(ages(tmp_path / "c")).digest != approved


def test_a_recipe_that_trains_nothing_is_no_fine_tuning_recipe(tmp_path: Path) -> None:
    resolved = load_recipe(ages(tmp_path / "a"))
    with refusal("recipe.no_model"):
        _ = resolved.recipe
    assert (resolved.parsed.rounds, list(resolved.parsed.contract.columns)) == (1, ["age"])


# -- what is wrong with a folder ---------------------------------------------------------------------


def test_every_problem_of_the_python_is_told_with_its_line(tmp_path: Path) -> None:
    path = ages(
        tmp_path / "a",
        AGES + "  bounds: 2\n",
        ages="from .others import x\nfrom ..above import y\n\ndef per_records(a, b, c): pass\n",
        broken="x = 1\ny = (\n",
        nul="x = '\0'\n",
    )
    (path / "bundle" / "table.csv").write_text("age\n1\n")
    (path / "bundle" / "below").mkdir()
    (path / "bundle" / "latin.py").write_bytes(b"x = '\xe9'\n")
    (path / "bundle" / "Upper.py").write_text("")
    (path / "bundle" / ".hidden").write_text("")
    (path / "bundle" / "__pycache__").mkdir()
    found = problems(path)
    for told in (
        "recipe.yaml:13: bundle.bounds: unknown key (did you mean 'bound'?)",
        "bundle/ages.py:1: imports .others, but there is no others.py",
        "bundle/ages.py:2: imports from above the bundle",
        "bundle/ages.py:1: defines no per_record (did you mean 'per_records'?)",
        "bundle/broken.py:2: is not Python: '(' was never closed",
        "bundle/latin.py: is not UTF-8 text",
    ):
        assert told in found
    carried = "is not carried: a bundle is Python files named a-z, 0-9 and _, in no folder below"
    assert [line for line in found if carried in line] == [
        f"bundle/{name}: {carried}" for name in ("Upper.py", "below", "table.csv")
    ]
    assert any("nul.py:1 holds U+0000, which a reader does not see" in line for line in found)
    assert len(found) == 11
    assert "bundle/nul.py:1: is not Python" in "".join(found)


def test_a_folder_without_python(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "a", AGES)
    assert problems(path) == ["bundle: holds no Python file"]
    (path / "bundle").rmdir()
    assert problems(path) == ["bundle: there is no such folder, and the recipe's Python lies in it"]


def test_files_from_outside_and_files_that_are_too_large(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("x = 1")
    path = ages(tmp_path / "a", huge="#" * (MAX_BYTES + 1))
    (path / "bundle" / "link.py").symlink_to(tmp_path / "secret.py")
    found = problems(path)
    assert f"bundle/huge.py: is longer than {MAX_BYTES} bytes, the most that a bundle takes in all" in found
    assert "bundle/link.py: is no file of this folder" in found
    path = ages(tmp_path / "b", half="#" * (MAX_BYTES // 2), other_half="#" * (MAX_BYTES // 2))
    assert any(f"{MAX_BYTES} are the most" in line for line in problems(path))
    path = ages(tmp_path / "c", **{f"file_{number}": "" for number in range(MAX_FILES)})
    assert f"bundle: holds {MAX_FILES + 2} files, {MAX_FILES} are the most" in problems(path)


def test_the_files_are_not_written_in_the_yaml(tmp_path: Path) -> None:
    path = ages(tmp_path / "a", AGES + "  files: {ages.py: 'x = 1'}\n")
    assert "bundle.files: is read from the folder bundle, and not written here" in problems(path)[0]


# -- contradictions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "place", "what"),
    [
        ({"half": "vector", "privacy": RECORD}, "privacy.mechanism", "inside a finished vector"),
        ({"privacy": RECORD | {"mechanism": "dp-sgd"}}, "privacy.mechanism", "dp-sgd is for training"),
        ({"privacy": RECORD | {"unit": "patient"}}, "privacy.unit", "no patients"),
        (
            {"privacy": OUTPUT | {"update_clip": None}},
            "privacy.update_clip",
            "is needed with mechanism: output",
        ),
        (
            {"privacy": RECORD, "max_rows": 10**6},
            "data.max_rows",
            "1000000 turns of bundle.record_ms: 300",
        ),
        ({"privacy": RECORD, "max_rows": 10**6 + 1}, "data.max_rows", "1000001 turns are too many"),
        ({"columns": {"age": {"type": "label"}}}, "data.columns.age", "code sees no label column"),
        ({"columns": {"who": {"type": "identifier"}}}, "data.columns.who", "code sees no identifier column"),
        ({"federation": {"min_sites": 2}}, "federation.min_sites", "at least 3 sites"),
        (
            {"size": 2**24, "tensors": {"a": [2**24], "b": [1]}},
            "bundle",
            "16777217 values, 16777216 are the most",
        ),
        ({"entry": "gone"}, "bundle", "there is no gone.py"),
        ({"initial": {"sum": 1}}, "bundle", "initial names sum (did you mean 'sums'?), which is no tensor"),
        ({"initial": {"sums": [1, 2]}}, "bundle", "initial gives sums 2 values, its shape has 3"),
        ({"half": "flower"}, "bundle.advance", "the vector of a ClientApp is what it changed; total"),
        (FLOWER | {"settings": {"lr": [1, 2]}}, "bundle.settings.lr", "no lists"),
        (
            FLOWER | {"privacy": RECORD},
            "privacy.mechanism",
            "inside what a ClientApp has trained on all rows",
        ),
        (
            {"federation": {"server": {"strategy": "FedAdam"}}},
            "federation.server",
            "steps along the mean update; bundle.advance is total",
        ),
    ],
)
def test_what_a_bundle_s_recipe_cannot_be(changes: dict[str, Any], place: str, what: str) -> None:
    with pytest.raises(ValueError, match=r"error") as caught:
        bundle_recipe("", **changes)
    errors: Any = caught.value
    (error,) = errors.errors()
    told = error.get("ctx", {}).get("problems") or [(error["loc"], error["msg"])]
    assert [".".join(map(str, path)) for path, _ in told] == [place]
    assert what in told[0][1]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"../entry.py": ""},
        {"/etc/passwd.py": ""},
        {"below/entry.py": ""},
        {"entry.pyc": ""},
        {"__init__.py": ""},
        {"entry.py\n": ""},
        {".py": ""},
        {"entry.py": 5},
        {"entry.py": "é" * (MAX_BYTES // 2 + 1)},
        {f"file_{number}.py": "" for number in range(MAX_FILES + 1)},
    ],
)
def test_a_gateway_takes_no_other_files(files: dict[str, Any]) -> None:
    document = bundle_recipe("x = 1").model_dump(mode="json")
    parse_document(document)
    document["bundle"]["files"] = {"entry.py": ""} | files if files else {}
    with refusal("recipe.malformed") as caught:
        parse_document(document)
    assert len(str(caught.value)) < 600


HIDDEN = ("\x1b[2K", "\x08", "\r", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041")


@pytest.mark.parametrize("hidden", HIDDEN)
def test_text_that_reads_other_than_it_runs_is_refused(hidden: str) -> None:
    with pytest.raises(ValueError, match=r"entry.py:2 holds U\+[0-9A-F]{4,5}, which a reader does not see"):
        bundle_recipe(f"x = 1\ny = 2  # {hidden}access\n")
    bundle_recipe("x = 'é ü 日本 \U0001f9ec'\t# all of it can be seen\r\n")


@pytest.mark.parametrize("name", ["", ".", "sums.", "a..b", "../sums", "sums/x", "a b", "a" * 201])
def test_a_tensor_s_name_is_words_with_dots(name: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|200 characters"):
        bundle_recipe("", tensors={name: [1]})


def test_tensors_are_in_the_order_of_their_numbers() -> None:
    names = ["10", "9", "B", "a.10.w", "a.9.w", "a.9"]
    ordered = bundle_recipe("", tensors={name: [1] for name in names}).bundle.ordered
    assert [name for name, _ in ordered] == ["9", "10", "B", "a.9", "a.9.w", "a.10.w"]


# -- imports -------------------------------------------------------------------------------------------


def test_imports_are_found_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "without_a_spec", ModuleType("without_a_spec"))
    files = {
        "a.py": "import numpy as np, no_such_module_at_all.inner\nfrom json import dumps\nfrom .b import c\n",
        "b.py": "def f():\n    import also_not_here, without_a_spec\n    from plasmid_bundle import a\n",
    }
    names = ["also_not_here", "json", "no_such_module_at_all.inner", "numpy", "without_a_spec"]
    assert imports(files) == names
    assert not_installed(files) == ["also_not_here", "no_such_module_at_all", "without_a_spec"]
    assert code_problems(files, "a", "dumps") == []


def test_a_function_may_be_imported_or_assigned() -> None:
    for text in ("from .b import loss", "from .b import other as loss", "loss = len", "def loss(): pass"):
        assert code_problems({"a.py": text, "b.py": ""}, "a", "loss") == []
    assert code_problems({"a.py": "class loss: pass"}, "a", "loss") == ["a.py:1: defines no loss"]


# -- templates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", templates.Half)
def test_every_template_is_a_sound_recipe(tmp_path: Path, half: templates.Half) -> None:
    folder = templates.write("my-own_1", half, tmp_path)
    resolved = load_recipe(folder)
    assert resolved.parsed.name == "my-own_1"
    assert resolved.parsed.bundle is not None
    assert resolved.parsed.bundle.half == half
    assert isinstance(resolved.parsed, Recipe) == (half == "loss")
    assert not_installed(resolved.files) == []
    assert (folder / "recipe.yaml").read_text().startswith("# plasmid run ./my-own_1 --sites DIR")
    with pytest.raises(UsageError) as caught:
        templates.write("my-own_1", half, tmp_path)
    assert caught.value.code == "usage.exists"


def test_every_template_is_one_of_a_half() -> None:
    folders = {path.name for path in Path(templates.__file__).parent.iterdir() if path.is_dir()}
    assert folders - {"__pycache__", templates.METHOD} == set(templates.Half)


@pytest.mark.parametrize("name", ["", "Ages", "../ages", "a/b", "a" * 64])
def test_a_recipe_s_name_is_a_word(tmp_path: Path, name: str) -> None:
    with refusal("usage.name"):
        templates.write(name, templates.Half.vector, tmp_path)
    assert list(tmp_path.iterdir()) == []
