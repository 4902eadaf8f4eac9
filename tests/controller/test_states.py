"""Every pair of states."""

from __future__ import annotations

import itertools

import pytest

from plasmid.coordinator.states import FINAL, RunState, may_follow

S = RunState
WAY = [S.CREATED, S.ADMITTING, S.AWAITING_APPROVAL, S.SETTING_UP, S.RUNNING, S.FINISHING, S.SUCCEEDED]
ENDS = {S.FAILED, S.STOPPED, S.INTERRUPTED}
ALLOWED = set(itertools.pairwise(WAY)) | {(old, end) for old in WAY[:-1] for end in ENDS}
ALLOWED |= {(S.ADMITTING, S.SETTING_UP)}  # nobody has to approve


@pytest.mark.parametrize(("old", "new"), list(itertools.product(RunState, RunState)))
def test_a_state_follows_only_along_the_table(old: RunState, new: RunState) -> None:
    assert may_follow(old, new) is ((old, new) in ALLOWED)


def test_six_steps_a_short_cut_and_four_ends() -> None:
    assert len(ALLOWED) == 6 + 6 * 3 + 1
    assert {state for state in RunState if state.final} == FINAL == ENDS | {S.SUCCEEDED}
    assert [state.value for state in RunState] == [state.name for state in RunState]
