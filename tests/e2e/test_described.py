"""A recipe on a model whose weights are not here, by the real command: planned, and refused as a run."""

from __future__ import annotations

import pytest

from e2e.conftest import Home

pytestmark = pytest.mark.slow


def test_a_larger_model_is_dry_run_and_not_run(home: Home) -> None:
    status, answer, errors = home.run("run", "disorder-amplify", "--dry-run")
    assert status == 0, (answer, errors)
    data = answer["data"]
    assert data["would_run"] is False
    assert {said["code"] for said in data["plan"]["sites"].values()} == {"model.not_imported"}
    assert data["values"]["model.digest"] == {"value": None, "origin": "catalogue"}
    found = data["estimate"]
    assert found["trainable_parameters"] == data["plan"]["trainable_parameters"] == 247_682
    assert found["bytes"]["bodies_up"] == data["plan"]["bytes_up_per_round"]
    assert found["memory"]["weight_bytes"] == 4 * 353_982_720
    assert (found["probe"], found["seconds"]) == (None, None)
    assert "plasmid models import amplify-350m" in found["missing"][0]
    status, answer, _ = home.run("run", "disorder-amplify", "--yes")
    assert (status != 0, answer["error"]["code"]) == (True, "model.unpinned")
