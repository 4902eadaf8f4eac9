"""``pip install plasmid`` is the gateway and its verbs: what they import, and what they can do alone."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from pins import FILES, read_pins

REPOSITORY = Path(__file__).parents[1]
ROOTS = ("models", "recipes", "node", "platform")
BASE = {pin.name for pin in read_pins(FILES["gateway"].read_text(encoding="utf-8"))}
LEAN = (
    *("plasmid.cli", "plasmid.core", "plasmid.disclosure", "plasmid.dp", "plasmid.gateway"),
    *("plasmid.isolation", "plasmid.log", "plasmid.planner", "plasmid.protocol", "plasmid.release"),
    *("plasmid.secagg", "plasmid.uplink"),
)
LEAN_TOO = {
    "plasmid.gateway.node",
    "plasmid.owner.doctor",
    "plasmid.isolation.launcher",
    "plasmid.recipes.load",
}
"""The gateway's process, whatever its owner's verbs import at once, and what those import at once in turn."""


def module_files() -> dict[str, Path]:
    """Return the file of every module by its name, recipes' own scripts left out."""
    found = {}
    for root in ROOTS:
        for path in (REPOSITORY / root).rglob("*.py"):
            relative = path.relative_to(REPOSITORY / root)
            if not {"catalogue", "templates"} & set(relative.parts):
                found[".".join(relative.with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports at once: nothing of its functions, nothing for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported(node)


def module_of(name: str, files: dict[str, Path]) -> str:
    """Return the module that *name* is, or is in."""
    while name not in files:
        name = name.rpartition(".")[0]
    return name


def reached(start: set[str], files: dict[str, Path]) -> dict[str, tuple[str, ...]]:
    """Return each top-level package of others that *start* import at once, with one way to it."""
    ways = {name: (name,) for name in start}
    todo, others = list(start), dict[str, tuple[str, ...]]()
    while todo:
        here = todo.pop()
        parents = {here.rsplit(".", up)[0] for up in range(1, here.count("."))}
        for name in parents | set(imported(ast.parse(files[here].read_text(encoding="utf-8")))):
            if not name.startswith("plasmid."):
                others.setdefault(name.partition(".")[0], ways[here])
                continue
            module = module_of(name, files)
            if module not in ways:
                ways[module] = (*ways[here], module)
                todo.append(module)
    return {name: way for name, way in others.items() if name not in sys.stdlib_module_names}


def test_the_gateway_and_all_verbs_of_a_node_import_the_base_install_alone() -> None:
    files, packages = module_files(), packages_distributions()
    start = {name for name in files if ".".join(name.split(".")[:2]) in LEAN} | LEAN_TOO
    found = reached(start, files)
    strange = {
        name: " -> ".join(way)
        for name, way in found.items()
        if not BASE & set(map(canonicalize_name, packages[name]))
    }
    assert strange == {}


def test_what_is_not_lean_is_seen() -> None:
    """The positive control: a way to torch, and one to the web server."""
    files = module_files()
    assert reached({"plasmid.worker.rounds"}, files)["torch"][0] == "plasmid.worker.rounds"
    assert "starlette" in reached({"plasmid.owner.page.server"}, files)
    assert list(
        imported(ast.parse("def f():\n import torch\nif TYPE_CHECKING:\n import peft\nimport os"))
    ) == ["os"]


# -- a fresh environment ---------------------------------------------------------------------------

LEAN_VERBS = (
    "site show", "site status", "site outbox", "data ls", "recipes ls", "recipes show tcr-covid",
    "recipes cp tcr-covid mine", "models ls", "policy check", "approvals ls", "audit ls", "audit verify",
    "privacy explain tcr-covid-dp",
)  # fmt: skip


@pytest.mark.slow
def test_a_fresh_environment_of_the_pinned_gateway_works_and_asks_for_its_extras(tmp_path: Path) -> None:
    """pip takes the gateway's pins by hashes, nothing more comes with Plasmid, and its verbs answer."""
    python, wheel = tmp_path / "env/bin/python", _wheel(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--retries=1", "--timeout=20"]
    pinned = subprocess.run(
        [*pip, "--require-hashes", "-r", str(FILES["gateway"])], capture_output=True, text=True, check=False
    )
    if re.search(r"NewConnectionError|NameResolutionError|No matching distribution found", pinned.stderr):
        pytest.skip("no index answers here")
    assert pinned.returncode == 0, pinned.stderr
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    subprocess.run([str(python), "-m", "pip", "check"], check=True, capture_output=True)
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json"], check=True, capture_output=True
    )
    installed = {canonicalize_name(one["name"]): one["version"] for one in json.loads(listed.stdout)}
    pins = {pin.name: pin.version for pin in read_pins(FILES["gateway"].read_text(encoding="utf-8"))}
    assert {name: installed[name] for name in installed.keys() - {"pip", "setuptools", "plasmid"}} == pins

    (tmp_path / "phrase").write_text("correct horse battery\n")
    (tmp_path / "phrase").chmod(0o600)
    begun = _plasmid(tmp_path, "site init a --organisation A --passphrase-file phrase")
    assert begun["status"] == "ok", begun
    (tmp_path / "home/site/policy.yaml").write_text("allow: []\n")
    for command in LEAN_VERBS:
        answer = _plasmid(tmp_path, command)
        assert answer["status"] == "ok", (command, answer["error"])
    refused = _plasmid(tmp_path, "policy explain tcr-covid")["error"]["code"]
    assert refused == "policy.digest_not_allowed"  # the policy's own no
    for command, extra in (("site page", "page"), ("site start", "worker"), ("run tcr-covid", "platform")):
        error = _plasmid(tmp_path, command)["error"]
        assert (error["code"], f"plasmid[{extra}]" in error["hint"]) == ("usage.extra_missing", True), error


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def _plasmid(folder: Path, command: str) -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [str(folder / "env/bin/plasmid"), *command.split(), "--format", "json"],
        cwd=folder,
        env={"PLASMID_HOME": str(folder / "home"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))
