"""Row 32. Attack: the clock is set back, so that an expired approval holds again.

Must hold: an approval's end is judged by the later one of the clock and the signed log's newest entry.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from plasmid.core.clock import now
from plasmid.gateway.approvals.quorum import Signature
from plasmid.gateway.approvals.register import Approvals
from support.federation.approving import add_people, allow_approved, sign
from support.federation.attacks import never, refusal
from support.federation.in_memory import Federation


class Hands:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.moved = timedelta()

    def __call__(self) -> datetime:
        return now() + self.moved


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def federation(tmp_path: Path, clock: Hands) -> Federation:
    """alpha's ann and bob have approved the document for ten days."""
    made = Federation(tmp_path)
    allow_approved(made)
    made.gateways["alpha"].audit._clock = clock
    approvals = add_people(made)
    assert made.admit("alpha").pending is not None
    case = approvals.find(made.digest)
    for name in ("ann", "bob"):
        sign(approvals, case, name, days=10)
    return made


def states(approvals: Approvals) -> set[str]:
    return {said.state for said in approvals.all_signatures()}


def approvals_of(federation: Federation) -> Approvals:
    return federation.gateways["alpha"].approvals


def expire(federation: Federation, clock: Hands) -> None:
    """Let eleven days pass, in which the site logs something."""
    clock.moved = timedelta(days=11)
    federation.gateways["alpha"].audit.write("started")


def test_control_within_its_days_an_approval_opens(federation: Federation, clock: Hands) -> None:
    clock.moved = timedelta(days=9)
    assert states(approvals_of(federation)) == {"valid"}
    assert federation.admit("alpha").accepted


def test_control_the_clock_alone_would_revive_it(federation: Federation, clock: Hands) -> None:
    """Judged by the clock, what expired is valid again once the clock is set back."""
    expire(federation, clock)
    clock.moved = timedelta()
    assert all(said.approval.holds_at(clock()) for said in approvals_of(federation).all_signatures())


@pytest.mark.promise("approvals-bound")
@pytest.mark.parametrize("back", [timedelta(), timedelta(days=-1), timedelta(days=5)])
def test_setting_the_clock_back_revives_nothing(
    federation: Federation, clock: Hands, back: timedelta
) -> None:
    expire(federation, clock)
    assert states(approvals_of(federation)) == {"expired"}
    clock.moved = back
    assert states(approvals_of(federation)) == {"expired"}


def test_nor_does_a_restart(federation: Federation, clock: Hands) -> None:
    expire(federation, clock)
    clock.moved = timedelta()
    gateway = federation.restart("alpha")  # whose clock is the true one
    assert states(gateway.approvals) == {"expired"}


def test_a_run_under_way_ends_when_its_approval_has_expired_and_stays_ended(
    federation: Federation, clock: Hands
) -> None:
    federation.set_up()
    expire(federation, clock)
    manifest = federation.manifest()
    gateway = federation.gateways["alpha"]
    with refusal("policy.approval_expired"):
        gateway.contribute(manifest, never)
    clock.moved = timedelta()
    with refusal("policy.approval_expired"):
        gateway.contribute(manifest, never)


def test_with_the_clock_behind_the_log_nothing_is_admitted_at_all(
    federation: Federation, clock: Hands
) -> None:
    """Not even a new approval helps: a log whose time ran backwards takes no entry."""
    expire(federation, clock)
    clock.moved = timedelta()
    with refusal("site.clock"):
        federation.admit("alpha")
    approvals = approvals_of(federation)
    with refusal("site.clock"):
        sign(approvals, approvals.find(federation.digest), "ann")


def test_an_approval_signed_in_the_future_counts_for_nothing_yet(
    federation: Federation, clock: Hands
) -> None:
    """Signed where the clock was a day ahead, copied to where it is not."""
    approvals = approvals_of(federation)
    case = approvals.find(federation.digest)
    ahead: Callable[[], Signature] = lambda: sign(approvals, case, "ann")  # noqa: E731
    clock.moved = timedelta(days=1)
    said = ahead()
    assert said.digest in {one.digest for one in approvals.all_signatures()}
    log = federation.home("alpha").audit
    for path in log.iterdir():  # the log of that clock is not here
        path.unlink()
    clock.moved = timedelta()
    gateway = federation.restart("alpha")
    assert said.digest not in {one.digest for one in gateway.approvals.all_signatures()}
