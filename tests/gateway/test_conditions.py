"""Under which conditions a node starts, and what holds for each step of a run under way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from plasmid.core.errors import PolicyRefused
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.node import Node
from plasmid.gateway.policy.conditions import check_start, policy_problem
from plasmid.gateway.policy.file import read_policy
from support.federation.approving import CHEAP, SECRET, allow_approved, revoke, sign, write_policy
from support.federation.attacks import BUDGET, private, refusal
from support.federation.in_memory import Federation

BROKEN = "allow: []\nrequire:\n  max_round: 3\n"


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


class NoLauncher:
    level = "none"


def test_a_node_does_not_start_on_a_policy_that_does_not_parse(federation: Federation) -> None:
    """It is not even asked for its passphrase."""
    home = federation.home("alpha")
    home.policy.write_text(BROKEN)

    class Keys:
        def identity(self) -> None:
            raise AssertionError("the keys were opened")

    with pytest.raises(PolicyRefused) as caught:
        Node(home, Keys(), launcher=NoLauncher())  # type: ignore[arg-type]
    assert caught.value.code == "policy.invalid"
    assert caught.value.message == (
        f"{home.policy}:3: require.max_round: unknown key (did you mean 'max_rounds'?)"
    )


def test_without_a_policy_it_starts_and_says_that_nothing_runs(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    home = federation.home("alpha")
    check_start(home)
    assert (caplog.text, policy_problem(home)) == ("", "")
    home.policy.unlink()
    check_start(home)
    assert "so nothing runs" in caplog.text
    assert "so nothing runs" in policy_problem(home)


def test_a_policy_of_the_same_size_and_time_is_another_one(federation: Federation) -> None:
    """What decides is the bytes that are there, not what the folder says of them."""
    path = federation.home("alpha").policy
    path.write_text(json.dumps({"allow": ["a" * 64]}))
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    assert read_policy(path).allow[0].recipes == ["a" * 64]
    with path.open("r+b") as file:
        file.write(json.dumps({"allow": ["b" * 64]}).encode())
    os.utime(path, ns=times)
    assert path.stat().st_mtime_ns == times[1]
    assert read_policy(path).allow[0].recipes == ["b" * 64]


Change = Callable[[Federation], None]


def approved(federation: Federation) -> None:
    """Have ann approve the document for alpha, whose policy asks for her."""
    allow_approved(federation, people=["ann"], quorum=1)
    approvals = federation.gateways["alpha"].approvals
    secret = SECRET.format("ann")
    approvals.add_person("ann", full_name="Ann", role="officer", passphrase=lambda: secret, cost=CHEAP)
    assert federation.admit("alpha").pending is not None
    sign(approvals, approvals.find(federation.digest), "ann")


def take_back(federation: Federation) -> None:
    approvals = federation.gateways["alpha"].approvals
    revoke(approvals, approvals.all_signatures()[0], "ann")


CHANGES: dict[str, Change] = {
    "policy.approval_revoked": take_back,
    "policy.digest_not_allowed": lambda federation: write_policy(federation, "alpha", []),
    "policy.invalid": lambda federation: federation.home("alpha").policy.write_text(BROKEN) and None,
    "policy.absent": lambda federation: federation.home("alpha").policy.unlink(),
}


@pytest.mark.promise("asked-again")
@pytest.mark.parametrize("code", CHANGES)
def test_every_step_of_a_run_is_held_to_what_is_in_force(federation: Federation, code: str) -> None:
    """The key epoch, the vector, and the opening of the sum: asked for, refused, and done without it."""
    approved(federation)
    gateway: Gateway = federation.gateways["alpha"]
    federation.set_up()
    manifest = federation.manifest()
    answers = federation.answers(manifest)
    statements = [answer.contribution for answer in answers.values()]
    opening = federation.relay("contribution", statements)
    sound = federation.home("alpha").policy.read_bytes()
    CHANGES[code](federation)
    with refusal(code):
        gateway.begin_epoch(federation.epoch(epoch=2))
    with refusal(code):
        gateway.contribute(federation.manifest(2), lambda _: pytest.fail("it was computed"))
    with refusal(code):
        gateway.relay(opening)
    federation.home("alpha").policy.write_bytes(sound)
    if code == "policy.approval_revoked":
        approvals = gateway.approvals
        sign(approvals, approvals.find(federation.digest), "ann")
    assert gateway.relay(opening) is not None  # control


BUDGETS = {
    "policy.no_budget": {},
    "policy.budget": {"default": BUDGET | {"epsilon": 0.01}},
    "policy.budget_unit": {"default": BUDGET | {"unit": "patient"}},
}


@pytest.mark.promise("asked-again")
@pytest.mark.parametrize("code", BUDGETS)
def test_a_budget_that_the_owner_changes_holds_for_a_run_under_way(tmp_path: Path, code: str) -> None:
    federation = private(tmp_path)
    federation.set_up()
    gateway: Gateway = federation.gateways["alpha"]
    sound = federation.home("alpha").policy.read_bytes()
    policy = json.loads(sound)
    federation.home("alpha").policy.write_text(json.dumps(policy | {"budgets": BUDGETS[code]}))
    with refusal(code):
        gateway.contribute(federation.manifest(), lambda _: pytest.fail("it was computed"))
    account = policy["budgets"]["default"] | {"epsilon": federation.document.privacy.epsilon}
    federation.home("alpha").policy.write_text(json.dumps(policy | {"budgets": {"default": account}}))
    assert federation.answers(federation.manifest())["alpha"] is not None  # control: its own cost, no more
