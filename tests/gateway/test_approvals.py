"""Approvals: who signed what, whether it counts, and for how long; what a gateway makes of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.clock import now, parse, stamp
from plasmid.gateway.approvals.files import Case
from plasmid.gateway.approvals.quorum import Signature
from plasmid.gateway.approvals.register import MAX_DAYS, Approvals
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.messages import Admission, Pending
from plasmid.recipes.query import PingDocument
from support.federation.approving import SECRET, add_people, allow_approved, revoke, sign, write_policy
from support.federation.attacks import never, refusal
from support.federation.in_memory import Federation, full_disk


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation(tmp_path)
    allow_approved(made)
    return made


@pytest.fixture
def approvals(federation: Federation) -> Approvals:
    return add_people(federation, "ann", "bob", "eve")


def asked(federation: Federation) -> Admission:
    return federation.admit("alpha")


def waiting_case(federation: Federation, approvals: Approvals) -> Case:
    assert asked(federation).pending is not None
    return approvals.find(federation.digest)


def standing(federation: Federation) -> tuple[int, int] | None:
    """Return how many approvals are there of how many; None once the run is admitted."""
    said = asked(federation)
    if said.accepted:
        return None
    assert said.pending is not None, said
    return said.pending.have, said.pending.need


# -- waiting ---------------------------------------------------------------------------------------


@pytest.mark.promise("approvals-bound")
def test_a_run_waits_until_enough_people_have_signed(federation: Federation, approvals: Approvals) -> None:
    case = waiting_case(federation, approvals)
    assert standing(federation) == (0, 2)
    sign(approvals, case, "ann")
    assert standing(federation) == (1, 2)
    sign(approvals, case, "bob")
    assert standing(federation) is None
    assert approvals.files.all_waiting() == []


def test_what_leaves_says_how_far_it_is_and_until_when(federation: Federation, approvals: Approvals) -> None:
    said = asked(federation)
    (waiting,) = approvals.files.all_waiting()
    assert said == Admission(
        run=federation.run,
        site="alpha",
        accepted=False,
        code="policy.awaiting_approval",
        sentence="People at the site are to approve the run.",
        pending=Pending(have=0, need=2, expires=waiting.expires),
    )
    assert parse(waiting.expires) - parse(waiting.since) == timedelta(days=14)
    assert (waiting.run, waiting.requester, waiting.organisation) == (federation.run, "ada", "lab")


def test_a_question_makes_nobody_wait(federation: Federation, approvals: Approvals) -> None:
    said = federation.gateways["alpha"].answer(federation.asking())
    assert said.pending == Pending(have=0, need=2, expires=None)
    assert approvals.files.all_waiting() == []
    assert approvals.files.cases() == []


def test_a_run_that_the_policy_refuses_makes_nobody_sign(
    federation: Federation, approvals: Approvals
) -> None:
    rule = {"approvers": {"people": ["ann"], "quorum": 1}}
    write_policy(federation, "alpha", [rule], require={"max_rounds": 1})
    said = asked(federation)
    assert (said.code, said.pending) == ("policy.rounds", None)
    assert approvals.files.cases() == []


def test_the_first_look_sets_the_deadline(federation: Federation, approvals: Approvals) -> None:
    first = asked(federation).pending
    allow_approved(federation, wait_days=300)
    assert asked(federation).pending == first


def test_after_its_deadline_a_run_is_refused_and_a_new_one_waits_anew(
    federation: Federation, approvals: Approvals
) -> None:
    pending = asked(federation).pending
    assert pending is not None
    assert pending.expires is not None
    late = parse(pending.expires)
    federation.gateways["alpha"].audit._clock = lambda: late
    said = asked(federation)
    assert (said.code, said.pending) == ("policy.approval_expired", None)
    federation.new_run("another")
    assert standing(federation) == (0, 2)


def test_the_waiting_are_told_apart_and_told_once(federation: Federation, approvals: Approvals) -> None:
    gateway = federation.gateways["alpha"]
    asked(federation)
    assert gateway.began_to_wait(federation.run)
    asked(federation)
    assert not gateway.began_to_wait(federation.run)
    first = federation.run
    federation.new_run("another")
    asked(federation)
    assert gateway.began_to_wait(federation.run)
    assert {one.run for one in approvals.files.all_waiting()} == {first, federation.run}
    assert len(approvals.files.cases()) == 1
    gateway.stop_waiting(first)
    assert [one.run for one in approvals.files.all_waiting()] == [federation.run]


def test_the_log_says_who_asked_who_signed_and_what_was_admitted(
    federation: Federation, approvals: Approvals
) -> None:
    case = waiting_case(federation, approvals)
    said = sign(approvals, case, "ann")
    sign(approvals, case, "bob")
    asked(federation)
    revoke(approvals, said, "bob")
    told = [line for line in federation.log("alpha") if line["action"].startswith(("approval.", "person."))]
    assert [(line["action"], line["actor"]) for line in told] == [
        *[("person.added", "owner")] * 3,
        ("approval.requested", "gateway"),
        ("approval.signed", "person:ann"),
        ("approval.signed", "person:bob"),
        ("approval.revoked", "person:bob"),
    ]
    assert (told[3]["requester"], told[3]["run"]) == ("ada", federation.run)
    assert (told[4]["object"], told[4]["approval"]) == (federation.digest, said.digest)
    assert (told[4]["meaning"], told[4]["reason"]) == ("approved", "as discussed on Monday")
    assert told[6]["approval"] == said.digest


# -- what counts -----------------------------------------------------------------------------------


def test_a_person_counts_once(federation: Federation, approvals: Approvals) -> None:
    case = waiting_case(federation, approvals)
    for _ in range(3):
        sign(approvals, case, "ann")
    assert standing(federation) == (1, 2)


def test_a_copied_file_counts_once_and_a_renamed_one_never(
    federation: Federation, approvals: Approvals
) -> None:
    case = waiting_case(federation, approvals)
    said = sign(approvals, case, "ann")
    folder = federation.home("alpha").approvals / federation.digest
    file = folder / f"{said.digest}.approval.json"
    (folder / f"{'0' * 64}.approval.json").write_bytes(file.read_bytes())
    assert standing(federation) == (1, 2)
    file.unlink()
    assert standing(federation) == (0, 2)


def test_only_people_whom_the_policy_names_count(federation: Federation, approvals: Approvals) -> None:
    case = waiting_case(federation, approvals)
    sign(approvals, case, "eve")
    sign(approvals, case, "ann")
    assert standing(federation) == (1, 2)
    allow_approved(federation, people=["ann", "eve"])
    assert standing(federation) is None


def test_another_meaning_does_not_approve(federation: Federation, approvals: Approvals) -> None:
    case = waiting_case(federation, approvals)
    sign(approvals, case, "ann", meaning="reviewed")
    sign(approvals, case, "bob", meaning="dp-reviewed")
    assert standing(federation) == (0, 2)


def test_a_quorum_by_meaning_takes_one_person_for_each(federation: Federation, approvals: Approvals) -> None:
    allow_approved(federation, quorum={"approved": 2, "dp-reviewed": 1})
    case = waiting_case(federation, approvals)
    sign(approvals, case, "ann")
    sign(approvals, case, "ann", meaning="dp-reviewed")
    assert standing(federation) == (2, 3)
    sign(approvals, case, "bob", meaning="dp-reviewed")  # one more of what is there already
    assert standing(federation) == (2, 3)
    sign(approvals, case, "bob")
    assert standing(federation) is None


def test_two_names_with_one_key_are_one_person(federation: Federation, approvals: Approvals) -> None:
    """Somebody with access to the folder puts ann's key into bob's record, and ann signs for both."""
    folder = federation.home("alpha").people
    record = json.loads((folder / "ann.json").read_text())
    (folder / "bob.json").write_text(json.dumps(record | {"name": "bob"}))
    said = sign(approvals, waiting_case(federation, approvals), "ann")
    second = said.approval.model_copy(update={"signer": "bob"})
    envelope = Envelope.of(second).signed(approvals.people.signer("ann", lambda: SECRET.format("ann")))
    approvals.files.keep_approval(federation.digest, second.digest(), envelope)
    assert {one.person.name for one in approvals.all_signatures()} == {"ann", "bob"}
    assert standing(federation) == (1, 2)


def test_nobody_approves_his_own_request_where_duties_are_separate(
    federation: Federation, approvals: Approvals
) -> None:
    add_people(federation, "ada")
    allow_approved(federation, people=["ada", "ann"], quorum=1, separation=True)
    case = waiting_case(federation, approvals)
    sign(approvals, case, "ada")
    assert standing(federation) is None  # ada of the lab is not ada of alpha hospital
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update={"organisation": "lab"}))
    federation.restart("alpha")
    federation.new_run("another")
    assert standing(federation) == (0, 1)
    sign(federation.gateways["alpha"].approvals, case, "ann")
    assert standing(federation) is None


def test_control_without_separation_he_may(federation: Federation, approvals: Approvals) -> None:
    add_people(federation, "ada")
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update={"organisation": "lab"}))
    federation.restart("alpha")
    allow_approved(federation, people=["ada"], quorum=1)
    again = federation.gateways["alpha"].approvals
    sign(again, waiting_case(federation, again), "ada")
    assert standing(federation) is None


def test_a_rule_that_asks_for_nobody_goes_before_one_that_does(federation: Federation) -> None:
    rule = {"approvers": {"people": ["ann"], "quorum": 1}}
    write_policy(federation, "alpha", [rule, federation.digest])
    assert asked(federation).accepted


def test_a_rule_may_ask_for_a_digest_and_for_people(federation: Federation, approvals: Approvals) -> None:
    rule = {"recipes": ["0" * 64], "approvers": {"people": ["ann"], "quorum": 1}}
    write_policy(federation, "alpha", [rule])
    assert asked(federation).code == "policy.digest_not_allowed"
    write_policy(federation, "alpha", [rule | {"recipes": [federation.digest]}])
    sign(approvals, waiting_case(federation, approvals), "ann")
    assert standing(federation) is None


# -- signing ---------------------------------------------------------------------------------------


def test_a_signature_says_who_when_what_and_why(federation: Federation, approvals: Approvals) -> None:
    said = sign(approvals, waiting_case(federation, approvals), "ann")
    approval = said.approval
    assert said.manifestation == (
        f"Ann Example (officer), {approval.signed_at}, approved: as discussed on Monday"
    )
    assert parse(approval.expires) - parse(approval.signed_at) == timedelta(days=30)
    assert approval.subject.model_dump(exclude={"view"}) == {
        "recipe": federation.digest,
        "project": federation.project.digest(),
        "audience": federation.project.audience,
        "site": "alpha",
    }


def test_a_wrong_passphrase_signs_nothing(federation: Federation, approvals: Approvals) -> None:
    case = waiting_case(federation, approvals)
    with refusal("keys.passphrase"):
        sign(approvals, case, "ann", passphrase=lambda: SECRET.format("bob"))
    assert approvals.all_signatures() == []
    assert not [line for line in federation.log("alpha") if line["action"] == "approval.signed"]


@pytest.mark.parametrize(
    "changes", [{"reason": ""}, {"reason": " "}, {"reason": "a\nb"}, {"days": 0}, {"days": MAX_DAYS + 1}]
)
def test_a_signature_without_a_reason_or_an_end_is_none(
    federation: Federation, approvals: Approvals, changes: dict[str, Any]
) -> None:
    case = waiting_case(federation, approvals)
    with refusal("usage.approval"):
        sign(approvals, case, "ann", **changes)
    assert approvals.all_signatures() == []


def test_what_cannot_be_logged_is_not_signed(
    federation: Federation, approvals: Approvals, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = waiting_case(federation, approvals)
    with full_disk(federation.gateways["alpha"]), refusal("storage.full"):
        sign(approvals, case, "ann")
    assert approvals.all_signatures() == []


# -- while a run is under way ----------------------------------------------------------------------


def under_way(federation: Federation, approvals: Approvals) -> list[Signature]:
    """Have alpha's people approve, and take the run through its key epoch."""
    case = waiting_case(federation, approvals)
    signed = [sign(approvals, case, name) for name in ("ann", "bob")]
    federation.set_up()
    return signed


def test_a_revoked_approval_ends_a_run_at_its_next_manifest(
    federation: Federation, approvals: Approvals
) -> None:
    signed = under_way(federation, approvals)
    manifest = federation.manifest()
    answers = federation.answers(manifest)
    federation.open_sum(list(answers.values()), manifest)
    revoke(approvals, signed[0], "bob")
    with refusal("policy.approval_revoked"):
        federation.gateways["alpha"].contribute(federation.manifest(2), never)


def test_one_that_is_revoked_while_a_worker_computes_lets_nothing_out(
    federation: Federation, approvals: Approvals
) -> None:
    signed = under_way(federation, approvals)
    manifest = federation.manifest()

    def compute(_: Any) -> Any:
        revoke(approvals, signed[0], "ann")
        return np.zeros(6, np.float32)

    with refusal("policy.approval_revoked"):
        federation.gateways["alpha"].contribute(manifest, compute)
    assert not [line for line in federation.log("alpha") if line["action"] == "released"]


def test_an_expired_approval_ends_a_run(federation: Federation, approvals: Approvals) -> None:
    under_way(federation, approvals)
    federation.gateways["alpha"].audit._clock = lambda: now() + timedelta(days=31)
    with refusal("policy.approval_expired"):
        federation.gateways["alpha"].contribute(federation.manifest(), never)


def test_a_larger_quorum_ends_a_run(federation: Federation, approvals: Approvals) -> None:
    under_way(federation, approvals)
    allow_approved(federation, people=["ann", "bob", "eve"], quorum=3)
    with refusal("policy.awaiting_approval"):
        federation.gateways["alpha"].contribute(federation.manifest(), never)


def test_control_nothing_has_changed(federation: Federation, approvals: Approvals) -> None:
    under_way(federation, approvals)
    assert set(federation.answers(federation.manifest())) == set(federation.sites)


def test_a_digest_that_is_not_allowed_any_more_ends_a_run(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.set_up()
    federation.allow("alpha", [])
    with refusal("policy.digest_not_allowed"):
        federation.gateways["alpha"].contribute(federation.manifest(), never)


def test_the_end_of_the_hours_ends_a_run(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.set_up()
    closed = stamp(now() - timedelta(minutes=2))[11:16]
    before = stamp(now() - timedelta(minutes=62))[11:16]
    federation.allow("alpha", [federation.digest], hours={"opens": before, "closes": closed})
    with refusal("policy.hours"):
        federation.gateways["alpha"].contribute(federation.manifest(), never)


def test_a_policy_that_does_not_parse_any_more_lets_nothing_out(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.set_up()
    federation.home("alpha").policy.write_text("allow: [")
    with refusal("policy.invalid"):
        federation.gateways["alpha"].contribute(federation.manifest(), never)
    assert federation.admit("alpha").code == "policy.invalid"


# -- finding, and what leaves ----------------------------------------------------------------------


@pytest.mark.parametrize("digits", ["", "abc", "0" * 8])
def test_too_few_or_wrong_digits_find_nothing(
    federation: Federation, approvals: Approvals, digits: str
) -> None:
    waiting_case(federation, approvals)
    with refusal("usage.no_approval"):
        approvals.find(digits)


def test_digits_that_fit_two_cases_find_neither(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    allow_approved(federation)
    approvals = add_people(federation)
    waiting_case(federation, approvals)
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update={"population": "others"}))
    federation.admit("alpha")  # the same recipe, another view
    with refusal("usage.no_approval"):
        approvals.find(federation.digest)
    first, second = approvals.files.cases()
    assert approvals.find(first.subject.digest()) == first
    assert approvals.find(second.subject.digest()[:8]) == second


def test_a_policy_may_keep_the_sentence_at_home(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=2))
    federation.allow("alpha", [], error_detail="code")
    said = federation.admit("alpha")
    assert (said.code, said.sentence) == ("policy.digest_not_allowed", "")
    federation.allow("alpha", [], error_detail="sentence")
    assert federation.admit("alpha").sentence == "The site's policy does not name this digest."
