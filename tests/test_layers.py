"""The source roots, and the direction of imports between them.

The contracts are in pyproject.toml and ``make lint`` runs them; here they are compared with the folders,
run, and shown to catch what they forbid.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from itertools import islice
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOTS = ("platform", "node", "recipes", "models")
"""From the top layer to the bottom one, the order of the contract."""
TRUSTED = (
    *("core", "recipes", "protocol", "secagg", "dp", "disclosure", "log", "release", "planner", "gateway"),
    *("isolation", "uplink", "data"),
)
READERS = {"pyarrow", "duckdb", "sqlglot", "sqlalchemy", "pandas"}
HEAVY = {"torch", "transformers", "peft", "accelerate", "sklearn", "scipy", "dp_accounting", "flwr", "ray"}
ACCOUNTANTS = {"accountant_child.py", "accounting.py", "canary_bound.py", "skellam.py"}
"""Of ``plasmid.dp``, what only a locked child imports; were it imported elsewhere, scipy would show."""


def packages(root: str) -> set[str]:
    """Return the names of the subpackages that *root* contributes to the namespace."""
    return {
        folder.name
        for folder in (REPOSITORY / root / "plasmid").iterdir()
        if folder.is_dir() and folder.name != "__pycache__"
    }


def lint_imports(folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts of *folder*'s pyproject.toml, *paths* before everything installed."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_is_a_portion_of_one_namespace(root: str) -> None:
    assert not (REPOSITORY / root / "__init__.py").exists()
    assert not (REPOSITORY / root / "plasmid" / "__init__.py").exists()
    assert not list((REPOSITORY / root / "plasmid").glob("*.py"))
    assert [folder.name for folder in (REPOSITORY / root).iterdir()] == ["plasmid"]


@pytest.mark.parametrize("root", ROOTS)
def test_a_subpackage_is_typed_and_its_own(root: str) -> None:
    for name in packages(root):
        folder = REPOSITORY / root / "plasmid" / name
        assert (folder / "__init__.py").is_file(), folder
        assert (folder / "py.typed").is_file(), folder
    others = set().union(*(packages(other) for other in ROOTS if other != root))
    assert packages(root).isdisjoint(others)


def test_nothing_is_named_like_the_standard_library_platform() -> None:
    named = [path for root in ROOTS for path in (REPOSITORY / root / "plasmid").rglob("platform*")]
    assert [path for path in named if path.stem == "platform"] == []


def test_the_layers_of_the_contract_are_the_folders() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    order = [name for layer in layers for name in layer.split(" : ")]
    assert len(order) == len(set(order))
    left = iter(order)
    for root in ROOTS:  # each root is one run of layers, in the order of the roots
        assert set(islice(left, len(packages(root)))) == packages(root)


LEFT = {
    "plasmid.gateway.home -> plasmid.uplink.network",
    "plasmid.gateway.node -> plasmid.uplink.enrol",
    "plasmid.gateway.status -> plasmid.uplink.enrol",
    "plasmid.gateway.status -> plasmid.uplink.membership",
    "plasmid.gateway.watch -> plasmid.uplink.enrol",
    "plasmid.gateway.watch -> plasmid.uplink.membership",
}
"""Upward imports that are left. The set may only shrink."""


def test_no_exception_to_the_layers_is_added() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    assert set(layers.get("ignore_imports", [])) <= LEFT


def test_no_import_breaks_a_contract() -> None:
    result = lint_imports(REPOSITORY, *(REPOSITORY / root for root in ROOTS))
    assert result.returncode == 0, result.stdout


def test_an_import_upward_breaks_the_contract(tmp_path: Path) -> None:
    """The positive control: four roots of empty packages, and one module that looks up."""
    (tmp_path / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
    for root in ROOTS:
        for name in packages(root):
            folder = tmp_path / root / "plasmid" / name
            folder.mkdir(parents=True)
            (folder / "__init__.py").touch()
    upward = tmp_path / "models" / "plasmid" / "bases" / "upward.py"
    upward.write_text("def lazily() -> None:\n    import plasmid.gateway\n", encoding="utf-8")
    result = lint_imports(tmp_path, *(tmp_path / root for root in ROOTS))
    assert result.returncode == 1
    assert "plasmid.bases.upward -> plasmid.gateway (l.2)" in result.stdout


@pytest.mark.promise("gateway-without-torch")
def test_the_gateway_process_imports_nothing_heavy() -> None:
    modules = ["plasmid.gateway.node"]
    for name in TRUSTED:
        root = next(root for root in ROOTS if name in packages(root))
        files = (REPOSITORY / root / "plasmid" / name).rglob("*.py")
        relative = (
            file.relative_to(REPOSITORY / root).with_suffix("")
            for file in files
            if "catalogue" not in file.parts  # a recipe's own script is run by a person, never imported
            and not (name == "dp" and file.name in ACCOUNTANTS)
        )
        modules += [".".join(path.parts).removesuffix(".__init__") for path in relative]
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    paths = os.pathsep.join(str(REPOSITORY / root) for root in ROOTS)
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert HEAVY.intersection(json.loads(result.stdout)) == set()


def test_the_node_loads_nothing_that_reads_rows() -> None:
    """Rows are read by a process of its own: the node has neither a row nor a database's password."""
    code = (
        "import importlib, json, sys\n"
        "for name in ('node', 'watch', 'open_view', 'retention'):\n"
        "    importlib.import_module(f'plasmid.gateway.{name}')\n"
        "importlib.import_module('plasmid.cli.verbs.data')\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    paths = os.pathsep.join(str(REPOSITORY / root) for root in ROOTS)
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert READERS.intersection(json.loads(result.stdout)) == set()
