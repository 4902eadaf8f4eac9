"""What a run that makes no adapter leaves: arrays by name, files, and where they come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from plasmid.client.results import named, write_result
from plasmid.computations import bundle
from support.federation.bundle_recipes import bundle_recipe


def test_a_result_is_its_tensors_and_a_provenance(tmp_path: Path) -> None:
    schema = bundle.shape(bundle_recipe("", tensors={"zeta": [2], "alpha": [1, 3]}), None).schema
    state = np.arange(5.0)
    files = {"model.json": b"{}"}
    write_result(tmp_path / "result", schema, state, files=files, provenance={"run": "r-1"})
    assert (tmp_path / "result" / "model.json").read_bytes() == b"{}"
    found = load_file(tmp_path / "result" / "result.safetensors")
    assert found["alpha"].tolist() == [[0.0, 1.0, 2.0]]
    assert found["zeta"].tolist() == [3.0, 4.0]
    assert found["zeta"].dtype == np.float64
    assert json.loads((tmp_path / "result" / "provenance.json").read_text()) == {"run": "r-1"}
    state[:] = 9.0
    assert named(schema, np.arange(5.0))["zeta"].tolist() == [3.0, 4.0]
