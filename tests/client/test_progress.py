"""Progress where there is no terminal: a line for each step of a run, whole, and none twice."""

from __future__ import annotations

from typing import Any

import pytest

from plasmid.client.progress import RunProgress

SITES = [f"hospital-of-a-rather-long-name-{number}" for number in range(6)]


def shown(state: str = "RUNNING", *, done: int = 0, step: int = 0, **more: Any) -> dict[str, Any]:
    pulses = {site: {"round": done + 1, "step": step, "steps": 5} for site in SITES}
    return {"run_id": "r-1", "state": state, "rounds": 3, "rounds_done": done, "progress": pulses, **more}


def test_a_line_is_whole_and_a_state_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress() as progress:
        progress.update(shown("CREATED"))
        progress.update(shown("CREATED"))
        progress.update(shown(step=2))
        progress.update(shown(step=4))  # the same round, a moment later
        progress.update(shown(done=1))
        progress.note("scoring [what] was trained ...")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "r-1: CREATED",
        "r-1: RUNNING, round 1 of 3; " + "; ".join(f"{site}: 2/5 steps" for site in SITES),
        "r-1: RUNNING, round 2 of 3; " + "; ".join(f"{site}: 0/5 steps" for site in SITES),
        "scoring [what] was trained ...",
    ]


def test_what_is_awaited_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress() as progress:
        progress.update(shown("AWAITING_APPROVAL", approvals={"have": 1, "need": 2}))
    assert capsys.readouterr().err == "r-1: AWAITING_APPROVAL (1 of 2)\n"
