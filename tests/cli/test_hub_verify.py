"""``plasmid hub verify``: what it tells, and that a damaged adapter is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.hub_verify import app
from support.federation.release_world import SITES, World


@pytest.mark.usefixtures("at_home")
def test_an_adapter_is_verified_with_and_without_pins(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    world = World(tiny["bert"], words=("alpha", "beta"))
    world.fetch(tmp_path / "a")
    plain = CliRunner().invoke(app, [str(tmp_path / "a")], env={"COLUMNS": "400"})
    assert plain.exit_code == 0, plain.output
    for said in (
        "verified",
        "countersigned by 2 of 3 participants: alpha, beta",
        "not countersigned by gamma",
        "server step re-run",
        "NO KEY IS PINNED",
        "no differential privacy in this run",
    ):
        assert said in plain.stdout
    trust = tmp_path / "trust.yaml"
    trust.write_text(json.dumps({"sites": {"alpha": world.identities["alpha"].public}}))
    how = [str(tmp_path / "a"), "--trust", str(trust), "--format", "json"]
    answer = json.loads(CliRunner().invoke(app, how).stdout.splitlines()[-1])
    assert (answer["data"]["pinned"], answer["data"]["participants"]) == (["alpha"], list(SITES))
    (tmp_path / "a" / "head.json").write_text("{}")
    broken = CliRunner().invoke(app, how)
    assert broken.exit_code == 1
    assert json.loads(broken.stdout.splitlines()[-1])["error"]["code"] == "model.release_changed"
