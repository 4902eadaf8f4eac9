"""A run that ends early, from admission to an adapter that every site has chosen for itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.conftest import NAMES, Scene
from controller.test_countersign import fetched
from controller.test_methods_run import last_state, training
from plasmid.adapters.artifact import read_adapter
from plasmid.bases.store import BaseModel
from plasmid.coordinator.rounds import Rounds

pytestmark = pytest.mark.usefixtures("at_home")
Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]

STOP: dict[str, Any] = {"share": 0.25, "patience": 2}
DIVERGES = {"lora_lr": 5e-3, "head_lr": 3.0, "covariate_lr": 1.0}


def stopping(
    scene: Make, base: BaseModel, method: str = "finetune", *, rounds: int = 8, **stop: Any
) -> Scene:
    """Return a run at rates of which the loss on held back rows soon goes up."""
    federation = {"rounds": rounds, "stop": STOP | stop}
    return training(scene, base, method, federation=federation, training=DIVERGES)


@pytest.mark.parametrize(
    ("method", "release"), [("finetune", "best"), ("ffa_lora", "best"), ("sketch", "last")]
)
def test_a_run_is_over_when_the_loss_no_longer_falls(
    method: str, release: str, scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    made = stopping(scene, tiny["esm"], method, release=release)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    result, done = shown["result"], shown["result"]["rounds"]
    held = result["held_back"]
    assert done < 8
    assert len(held["losses"]) == done == shown["rounds_done"]
    assert held["losses"][0] == pytest.approx(np.log(2), abs=1e-5)  # an untrained head: one half each
    best = int(np.argmin(held["losses"]))
    assert (held["release"], held["after"]) == (release, best if release == "best" else done)
    assert done - 1 - best == 2  # the patience
    # every site came to the same end by itself, and says so
    for site in NAMES[:3]:
        (entry,) = made.events(site, "countersigned")
        assert (entry["contributed"], entry["rerun"]) == (done, done)
    found = fetched(made, shown, tmp_path / "adapter")
    assert (found.server_step, len(found.countersigned)) == ("re-run", 3)
    # the released files are those of the chosen round, and the card and provenance say which
    log = shown["round_log"]
    if release == "best":
        assert result["state"] == log[best - 1]["state"]
    _, released = read_adapter(tmp_path / "adapter").on(tiny["esm"])
    if method == "finetune":
        assert np.array_equal(released, last_state(made, shown))
    provenance = json.loads((tmp_path / "adapter" / "provenance.json").read_text())
    assert (provenance["rounds"], provenance["held_back"]) == (done, held)
    assert provenance["privacy"]["rounds"] == done
    assert f"Of {done} rounds, this is the state after {held['after']}" in (
        tmp_path / "adapter" / "README.md"
    ).read_text("utf-8")


def test_a_run_whose_loss_falls_has_all_its_rounds(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    federation = {"rounds": 3, "stop": STOP}
    made = training(scene, tiny["esm"], "finetune", federation=federation, training={"covariate_lr": 1e-4})
    shown = start(made)
    held = shown["result"]["held_back"]
    assert shown["result"]["rounds"] == 3
    assert held["losses"] == sorted(held["losses"], reverse=True)
    assert held["after"] == 2  # the state after the last round was never judged


# -- a coordinator that chooses otherwise ----------------------------------------------------------


def refusals(made: Scene, shown: dict[str, Any]) -> str:
    missing = shown["result"]["signed"]["missing"]
    assert set(missing) == set(NAMES[:3])
    return " ".join(missing.values())


def test_another_state_than_the_losses_choose_is_countersigned_by_nobody(
    scene: Make, start: Start, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stopping(scene, tiny["esm"])
    honest = Rounds._released
    monkeypatch.setattr(Rounds, "_released", lambda rounds, best: honest(rounds, best * np.float32(1.5)))
    assert "[protocol.step]" in refusals(made, start(made))


def test_an_end_without_a_reason_is_countersigned_by_nobody(
    scene: Make, start: Start, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stopping(scene, tiny["esm"], patience=5)
    is_best = Rounds._is_best

    def early(rounds: Rounds) -> bool:
        better = is_best(rounds)
        assert rounds.choice is not None
        rounds.choice.over = len(rounds.choice.losses) == 2
        return better

    monkeypatch.setattr(Rounds, "_is_best", early)
    assert "[protocol.step]" in refusals(made, start(made))


def test_a_round_after_the_end_is_answered_by_nobody(
    scene: Make, start: Start, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stopping(scene, tiny["esm"])
    is_best = Rounds._is_best

    def endless(rounds: Rounds) -> bool:
        better = is_best(rounds)
        assert rounds.choice is not None
        rounds.choice.over = False
        return better

    monkeypatch.setattr(Rounds, "_is_best", endless)
    shown = start(made)
    assert shown["state"] == "FAILED"
    assert shown["error"]["message"].count("[protocol.step]") == 3
    assert made.events("alpha", "released")[-1]["round"] < 8
