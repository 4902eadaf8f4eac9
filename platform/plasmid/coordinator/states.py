"""The states of a run, and which may follow which.

    CREATED -> ADMITTING -> AWAITING_APPROVAL -> SETTING_UP -> RUNNING -> FINISHING -> SUCCEEDED
       |           |               |                 |            |           |
       +-----------+---------------+-----------------+------------+-----------+--> FAILED | STOPPED |
                                                                                   INTERRUPTED

AWAITING_APPROVAL is left out where no site's people are to approve the run. A coordinator that starts again
goes on with a run that waits there.

INTERRUPTED is what a run becomes whose coordinator ended before it: written when a coordinator next
starts, and shown before that by whoever finds an unfinished run that no coordinator holds.
"""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where a run is."""

    CREATED = "CREATED"
    ADMITTING = "ADMITTING"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    SETTING_UP = "SETTING_UP"
    RUNNING = "RUNNING"
    FINISHING = "FINISHING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    INTERRUPTED = "INTERRUPTED"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in FINAL


FINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED, RunState.INTERRUPTED})
_WAY = (RunState.CREATED, RunState.ADMITTING, RunState.AWAITING_APPROVAL, RunState.SETTING_UP,
        RunState.RUNNING, RunState.FINISHING, RunState.SUCCEEDED)  # fmt: skip


def may_follow(old: RunState, new: RunState) -> bool:
    """Return whether *new* may follow *old*."""
    if old.final:
        return False
    if new in FINAL - {RunState.SUCCEEDED} or (old, new) == (RunState.ADMITTING, RunState.SETTING_UP):
        return True
    return new in _WAY and _WAY.index(new) == _WAY.index(old) + 1
