"""``plasmid models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.models import app
from support.tiny.tiny_models import tiny_bert


def _run(*arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(CliRunner().invoke(app, [*arguments, "--format", "json"]).stdout)
    return answer


@pytest.mark.usefixtures("at_home")
def test_ls_and_show(tiny: dict[str, BaseModel]) -> None:
    listed = {model["id"]: model for model in _run("ls")["data"]["models"]}
    assert listed["tiny-esm"]["imported"]
    assert not listed["antiberty"]["imported"]
    assert listed["antiberty"]["licence"] == "MIT"
    described = listed["esm2-3b"]
    assert (described["imported"], described["revision"], described["digest"]) == (False, None, None)
    assert described["source"] == "facebook/esm2_t36_3B_UR50D"
    shown = _run("show", "tiny-esm")["data"]
    assert shown["path"] == str(tiny["esm"].path)
    assert shown["digest"] == tiny["esm"].digest
    assert "model.safetensors" in shown["files"]
    plain = CliRunner().invoke(app, ["show", "tiny-esm"])
    assert plain.stdout.splitlines()[-1] == str(tiny["esm"].path)
    assert "tiny-esm" in CliRunner().invoke(app, ["ls"]).stdout


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "antiberty"), "model.not_imported"),
        (("show", "antibert"), "model.unknown"),
        (("show", "esm2-3b"), "model.not_imported"),
        (("import", "esm2-3b"), "model.not_imported"),
        (("import", "antibert"), "model.unknown"),
        (("import", "antiberty", "--id", "mine"), "usage.no_folder"),
        (("import", "./nothere"), "usage.no_folder"),
        (("import", "~/nothere", "--id", "mine"), "usage.no_folder"),
        (("import", "nothere/"), "usage.no_folder"),
    ],
)
def test_errors(arguments: tuple[str, ...], code: str) -> None:
    answer = _run(*arguments)
    assert (answer["status"], answer["error"]["code"]) == ("error", code)
    assert answer["error"]["hint"]


def test_import_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    source = tiny_bert(tmp_path / "source")
    found = _run("import", str(source), "--id", "mine", "--input", "protein")["data"]
    assert found["id"] == "mine"
    assert Path(found["path"]).is_dir()
    assert _run("show", "mine")["data"]["digest"] == found["digest"]
    assert CliRunner().invoke(app, ["import", str(source)]).exit_code == 0
