"""The frame of the command: lazy verbs, one shape of answer, usage errors as JSON."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

PLATFORM_ONLY = ("ray", "flwr", "fastapi", "uvicorn", "sqlalchemy")


def run(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh interpreter, after the statements *before*."""
    code = f"{before}\nimport sys\nsys.argv[1:] = {arguments!r}\nfrom plasmid.cli.main import main\nmain()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_help_names_every_verb_and_imports_none() -> None:
    watch = (
        "import atexit, sys; atexit.register(lambda: print("
        "[m for m in sys.modules if m.startswith('plasmid.') and m.count('.') > 1], file=sys.stderr))"
    )
    done = run("--help", before=watch)
    assert done.returncode == 0
    for verb in (
        "run",
        "runs",
        "query",
        "models",
        "recipes",
        "data",
        "predict",
        "evaluate",
        "site",
        "coordinator",
        "login",
    ):
        assert f" {verb} " in done.stdout
    assert "Run a recipe: plan, federated training" in done.stdout
    imported = set(ast.literal_eval(done.stderr))
    frame = {
        "plasmid.cli.main",
        "plasmid.cli.output",
        "plasmid.core.answers",
        "plasmid.core.errors",
        "plasmid.core.extras",
        "plasmid.core.files",
    }
    packages = {"plasmid.cli.verbs", "plasmid.client.verbs"}
    assert imported == frame | packages


def test_version() -> None:
    assert run("--version").stdout.strip() == version("plasmid")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["frobnicate"], "No such command 'frobnicate'."),
        (["run", "tcr-covid", "--sedd", "3"], "No such option '--sedd'."),
        (["run", "tcr-covid", "--seed", "three"], "'three' is not a valid int"),
        (["run"], "Missing argument 'RECIPE'"),
    ],
)
def test_usage_errors_are_json_when_json_was_asked_for(arguments: list[str], what: str) -> None:
    done = run(*arguments, "--format", "json")
    assert done.returncode == 2
    said = answer(done)
    assert (said["schema"], said["status"]) == ("plasmid.cli/1", "error")
    assert said["error"]["code"] == "usage.invalid"
    assert what in said["error"]["message"]
    assert said["error"]["hint"].startswith("Try 'plasmid")


@pytest.mark.parametrize("command", [["run", "tcr-covid", "--yes"], ["runs", "ls"], ["coordinator", "start"]])
def test_a_node_says_which_extra_a_platform_verb_needs(command: list[str], tmp_path: Any) -> None:
    hide = f"import sys; sys.modules.update(dict.fromkeys({PLATFORM_ONLY!r}))"
    home = f"import os; os.environ['PLASMID_HOME'] = {str(tmp_path)!r}"
    done = run(*command, "--format", "json", before=f"{hide}; {home}")
    assert done.returncode != 0
    assert answer(done)["error"]["code"] == "usage.extra_missing"
    assert "plasmid[platform]" in answer(done)["error"]["hint"]


def test_a_node_needs_no_extra_for_its_own_verbs(tmp_path: Any) -> None:
    hide = f"import sys; sys.modules.update(dict.fromkeys({PLATFORM_ONLY!r}))"
    home = f"import os; os.environ['PLASMID_HOME'] = {str(tmp_path)!r}"
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse battery\n")
    phrase.chmod(0o600)
    how = ["--organisation", "A", "--passphrase-file", str(phrase), "--format", "json"]
    done = run("site", "init", "a", *how, before=f"{hide}; {home}")
    assert done.returncode == 0
    assert answer(done)["data"]["card"]["name"] == "a"


def test_httpx_brings_no_command_line_of_its_own() -> None:
    """It would, with rich's progress bars and pygments, in the process of every site."""
    told = "print([m for m in ('pygments', 'rich.progress', 'httpx._main') if sys.modules.get(m)])"
    watch = f"import atexit, sys; atexit.register(lambda: exec({'import httpx; ' + told!r}))"
    assert run("--version", before=watch).stdout.splitlines()[-1] == "[]"
    control = subprocess.run(
        [sys.executable, "-c", f"import sys, httpx; {told}"], capture_output=True, text=True, check=True
    )
    assert "httpx._main" in control.stdout
