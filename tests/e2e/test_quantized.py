"""``plasmid run`` over a base in 4 bits, by the real command: trained, released, scored; and under a unit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.conftest import QUICK, Home

pytestmark = pytest.mark.slow
NF4 = ("--set", "model.quantization=nf4")
PRIVATE = [
    *("--set", "computation=ffa_lora", "--set", "privacy.unit=record", "--set", "privacy.mechanism=dp-sgd"),
    *("--set", "privacy.epsilon=8.0", "--set", "privacy.delta=1e-5", "--set", "privacy.record_clip=0.5"),
]


def test_an_adapter_over_4_bits_scores_as_the_run_said(home: Home) -> None:
    sites = ("--sites", str(home.sites), "--eval", str(home.test))
    status, answer, errors = home.run("run", "tcr-covid", *sites, *QUICK, *NF4, "--yes")
    assert status == 0, (answer, errors)
    folder = Path(answer["data"]["adapter"])
    head = json.loads((folder / "head.json").read_text())
    assert head["base"]["quantization"] == "nf4"
    status, found, _ = home.run("evaluate", str(folder), "--data", str(home.test))
    assert status == 0
    assert found["data"]["metrics"]["value"] == pytest.approx(
        answer["data"]["metrics"]["federated"], abs=1e-6
    )


def test_a_private_run_over_4_bits(home: Home) -> None:
    sites = ("--sites", str(home.sites), "--eval", str(home.test), "--no-baselines")
    status, answer, errors = home.run("run", "tcr-covid", *sites, *QUICK, *NF4, *PRIVATE, "--yes")
    assert status == 0, (answer, errors)
    assert answer["data"]["rounds"] == 2
