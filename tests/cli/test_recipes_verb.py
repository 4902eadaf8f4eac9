"""`plasmid recipes`: both formats, and errors with their codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.cli.verbs.recipes import app
from plasmid.recipes import catalogue
from plasmid.recipes.load import load_recipe


def ask(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--format", "json"])
    answer = json.loads(result.stdout.splitlines()[-1])
    assert answer["schema"] == "plasmid.cli/1"
    assert (answer["status"] == "ok") == (result.exit_code == 0)
    return result.exit_code, answer


def test_ls_knows_every_recipe() -> None:
    status, answer = ask("ls")
    assert status == 0
    assert [recipe["name"] for recipe in answer["data"]["recipes"]] == catalogue.ls()
    assert "tcr-covid" in CliRunner().invoke(app, ["ls"]).stdout


def test_show_gives_the_digest_and_the_file_as_it_is() -> None:
    resolved = load_recipe("tcr-covid", seed=4)
    _, answer = ask("show", "tcr-covid", "--seed", "4")
    assert answer["data"]["digest"] == resolved.digest
    assert answer["data"]["document"] == resolved.document
    text = CliRunner().invoke(app, ["show", "tcr-covid"]).stdout
    assert load_recipe("tcr-covid").digest in text
    assert "targets: [query, value]" in text


def test_check_counts_the_rows_and_tells_notices() -> None:
    _, answer = ask("check", "tcr-covid")
    assert answer["data"]["sites"]["donor_1886"] == 701
    assert sum(answer["data"]["sites"].values()) == 7528 - 1399
    assert answer["data"]["eval_rows"] == 1399
    notices = [one for one in answer["data"]["notices"] if "not imported here" not in one]
    assert len(notices) == 2
    assert all("unseen" in notice for notice in notices)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "tcr"), "recipe.unknown"),
        (("show", "tcr-covid", "--set", "training.steps"), "usage.set_malformed"),
        (("check", "tcr-covid", "--set", "training.stepps=3"), "recipe.invalid"),
    ],
)
def test_errors_have_codes(arguments: tuple[str, ...], code: str) -> None:
    status, answer = ask(*arguments)
    assert status == 1
    assert answer["error"]["code"] == code
    assert answer["error"]["hint"]


def test_check_checks_the_callers_tables(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.csv").write_text("cdr3,v_gene,j_gene,label\nCASS,TRBV1*01,TRBJ1-1*01,1\n")
    test = tmp_path / "test" / "test.csv"
    test.parent.mkdir()
    test.write_text((tmp_path / "a.csv").read_text() + "CASS,TRBV1*01,TRBJ1-1*01,0\n")
    _, answer = ask("check", "tcr-covid", "--sites", str(tmp_path), "--eval", str(test))
    assert answer["data"]["sites"] == {"a": 1, "b": 1, "c": 1}
    assert answer["data"]["eval_rows"] == 2
    (tmp_path / "c.csv").write_text("cdr3,v_gene,j_gene,label\nCANARY*,TRBV1*01,TRBJ1-1*01,1\n")
    status, answer = ask("check", "tcr-covid", "--sites", str(tmp_path))
    assert (status, answer["error"]["code"]) == (1, "data.residue_invalid")
    assert "CANARY" not in json.dumps(answer)
    (tmp_path / "a.csv").write_text("cdr3,v_gene,j_gene,label\nCASS,TRBV1*01,TRBJ1-1*01,2\n")
    status, answer = ask("check", "tcr-covid", "--sites", str(tmp_path), "--set", "training.batch=1")
    assert (status, answer["data"]["sites"]) == (1, {"b": 1})  # the others' problems, both at once
    assert "a.csv" in answer["error"]["message"]
    assert "c.csv" in answer["error"]["message"]


# -- recipes with Python ---------------------------------------------------------------------------


def test_new_makes_a_folder_that_shows_and_checks(tmp_path: Path) -> None:
    for half, module in (("per_record", "histogram.py"), ("vector", "line.py"), ("loss", "focal.py")):
        status, answer = ask("new", f"my-{half}", "--bundle", half, "--to", str(tmp_path))
        assert status == 0
        folder = tmp_path / f"my-{half}"
        assert answer["data"]["path"] == str(folder / "recipe.yaml")
        assert answer["data"]["bundle"] == [module]
        assert (answer["data"]["base"] is None) == (half != "loss")
        _, shown = ask("show", str(folder))
        assert shown["data"]["document"]["bundle"]["files"].keys() == {module}
        assert shown["data"]["digest"] == answer["data"]["digest"]
        text = CliRunner().invoke(app, ["show", str(folder)]).stdout
        assert f"def {half}(" in text
    status, answer = ask("new", "my-loss", "--to", str(tmp_path))
    assert (status, answer["error"]["code"]) == (1, "usage.exists")


def test_check_says_what_is_not_installed_and_checks_the_tables(tmp_path: Path) -> None:
    ask("new", "ages", "--to", str(tmp_path))
    folder = tmp_path / "ages"
    module = folder / "bundle" / "histogram.py"
    module.write_text("import no_such_module_at_all\n" + module.read_text())
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("a", "b", "c"):
        (tables / f"{name}.csv").write_text("age,secret\n30,x\n,y\n")
    status, answer = ask("check", str(folder), "--sites", str(tables))
    assert status == 0
    assert answer["data"]["sites"] == {"a": 2, "b": 2, "c": 2}
    notice = "the bundle imports no_such_module_at_all, which is not installed here; every site needs it"
    assert answer["data"]["notices"] == [notice]
    (tables / "c.csv").write_text("age\n300\n")
    assert (
        ask("check", str(folder), "--sites", str(tables))[1]["error"]["code"] == "data.number_out_of_bounds"
    )


def test_check_runs_none_of_the_python(tmp_path: Path) -> None:
    ask("new", "ages", "--to", str(tmp_path))
    module = tmp_path / "ages" / "bundle" / "histogram.py"
    module.write_text(module.read_text() + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    assert ask("check", str(tmp_path / "ages"))[0] == ask("show", str(tmp_path / "ages"))[0] == 0
    assert not (tmp_path / "ran").exists()
