"""`plasmid approvals`: recorded, listed, read, signed and taken back, on a site's real files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from plasmid.cli.verbs.approvals import app
from plasmid.protocol.approval import Approval, ApprovalRevocation
from plasmid.protocol.envelope import parse_envelope
from plasmid.protocol.identity import fingerprint
from support.federation.approving import add_people, allow_approved
from support.federation.officer import Office, call


class Desk(Office):
    """The owner's end: every verb of ``plasmid approvals`` on one site."""

    def call(self, *arguments: Any, text: bool = False) -> tuple[int, Any]:
        return call(app, *arguments, "--home", self.home.folder, text=text)

    def ok(self, *arguments: Any) -> dict[str, Any]:
        status, answer = self.call(*arguments)
        assert (status, answer["status"]) == (0, "ok"), answer
        return dict(answer["data"])

    def fails(self, code: str, *arguments: Any) -> dict[str, Any]:
        """Check that a verb fails with *code*; return the error."""
        status, answer = self.call(*arguments)
        assert (status, answer["error"]["code"]) == (1, code), answer
        return dict(answer["error"])

    def sign(self, digest: str, name: str, *more: Any) -> list[Any]:
        """Return the arguments with which *name* signs."""
        how = ["--as", name, "--reason", "read on Monday", "--passphrase-file", self.secret(name)]
        return ["sign", digest, *how, *(more or ["--yes"])]

    def revoke(self, digest: str, name: str) -> list[Any]:
        how = ["--as", name, "--reason", "a mistake", "--passphrase-file", self.secret(name)]
        return ["revoke", digest, *how]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "nobody's"))
    made = Desk(tmp_path / "sites", quorum={"dp-reviewed": 1, "approved": 2})
    made.digest = made.ask()  # type: ignore[attr-defined]
    add_people(made.federation)
    return made


def digest_of(desk: Desk) -> str:
    return str(desk.digest)  # type: ignore[attr-defined]


def test_from_the_first_signature_to_the_quorum_and_back(desk: Desk) -> None:
    digest = digest_of(desk)
    assert desk.ok("show", digest)["approvals"] == {"have": 0, "need": 3}
    first = desk.ok(*desk.sign(digest[:12], "ann"))["approval"]
    assert (first["signer"], first["meaning"], first["reason"]) == ("ann", "approved", "read on Monday")
    assert first["subject"] == desk.ok("show", digest)["subject"]
    desk.ok(*desk.sign(digest, "ann"))  # a second one of the same person and meaning counts for nothing
    assert desk.ok("show", digest)["approvals"] == {"have": 1, "need": 3}
    desk.ok(*desk.sign(digest, "ann", "--yes", "--meaning", "dp-reviewed", "--days", "10"))
    assert desk.federation.admit("alpha").code == "policy.awaiting_approval"
    last = desk.ok(*desk.sign(digest, "bob"))["approval"]
    assert desk.ok("show", digest)["approvals"] == {"have": 3, "need": 3}
    assert desk.federation.admit("alpha").accepted
    gone = desk.ok(*desk.revoke(last["digest"][:8], "ann"))["approval"]
    assert (gone["state"], gone["signer"], gone["digest"]) == ("revoked", "bob", last["digest"])
    assert desk.ok("show", digest)["approvals"] == {"have": 2, "need": 3}
    states = [said["state"] for said in desk.ok("ls")["approvals"]]
    assert sorted(states) == ["revoked", "valid", "valid", "valid"]
    desk.federation.new_run("another")
    assert desk.federation.admit("alpha").code == "policy.awaiting_approval"


def test_what_is_kept_is_an_envelope_signed_with_the_person_s_own_key(desk: Desk) -> None:
    digest = digest_of(desk)
    key = next(one["key"] for one in desk.ok("ls")["people"] if one["name"] == "ann")
    made = desk.ok(*desk.sign(digest, "ann"))["approval"]
    folder = desk.home.approvals / digest
    envelope = parse_envelope((folder / f"{made['digest']}.approval.json").read_bytes())
    assert envelope.signers({key}) == {key}
    assert envelope.open(Approval).subject.recipe == digest
    desk.ok(*desk.revoke(made["digest"], "ann"))
    taken = parse_envelope((folder / f"{made['digest']}.revoked.json").read_bytes())
    assert taken.signers({key}) == {key}
    assert taken.open(ApprovalRevocation).approval == made["digest"]


def test_in_words(desk: Desk) -> None:
    digest = digest_of(desk)
    _, shown = desk.call("show", digest, text=True)
    for line in (
        "What runs\n  computation: mean: the count, mean and variance of one column, over all sites\n",
        "  column: age, within 0 to 120\n",
        "On which rows\n  population: default\n  source: table.csv\n",
        "  number: 1 row\n",
        "  vector: one of 3 numbers in each attempt, 3 attempts at most\n",
        "  protection: in a sum over 3 sites or more; nobody sees this site's own\n",
        "  privacy budget: epsilon 1, delta 1e-06 for one record\n",
        "  left at present: epsilon 8 of 8, delta 1e-05 of 1e-05, for one record\n",
        "  results go to: ada (lab)\n",
        "This is the first version of it here.\n",
        "0 of 3 approvals (still needed: 1 x dp-reviewed, 2 x approved)\n",
    ):
        assert line in shown
    _, listed = desk.call("ls", text=True)
    assert listed.startswith("Waiting\n")
    assert f"  {digest[:12]}  ages, for ada of lab: 0 of 3 approvals" in listed
    assert "\nNobody has approved anything.\nWho has a record\n  ann  Ann Example (officer), " in listed
    _, signed = desk.call(*desk.sign(digest, "ann"), text=True)
    assert "Signed by Ann Example (officer), " in signed
    assert "approved: read on Monday" in signed
    assert signed.endswith("1 of 3 approvals (still needed: 1 x dp-reviewed, 1 x approved)\n")
    _, listed = desk.call("ls", text=True)
    assert f"ages ({digest[:12]}), valid until " in listed
    approval = desk.ok("ls")["approvals"][0]["digest"]
    _, revoked = desk.call(*desk.revoke(approval, "bob"), text=True)
    assert revoked.startswith("Revoked by bob: Ann Example (officer), ")
    assert "revoked: Ann Example" in desk.call("show", digest, text=True)[1]


def test_the_difference_to_the_last_approved_version(desk: Desk) -> None:
    first = digest_of(desk)
    desk.ok(*desk.sign(first, "ann"))
    desk.federation.new_run("wider")
    privacy = desk.federation.values["privacy"] | {"epsilon": 2.0}
    second = desk.ask(bounds=(0.0, 150.0), privacy=privacy)
    found, cost = desk.ok("show", second), ", delta 1e-06 for one record"
    assert found["previous"]["subject"]["recipe"] == first
    assert found["changed"] == [
        "column: age, within 0 to 150 (last approved: age, within 0 to 120)",
        f"privacy budget: epsilon 2{cost} (last approved: epsilon 1{cost})",
        "the view of this site's data is not the one that was approved",
    ]
    assert found["differences"] == ["bounds: [0, 120] -> [0, 150]", "privacy.epsilon: 1 -> 2"]
    _, shown = desk.call("show", second, text=True)
    assert "Against the version that was approved by Ann Example (officer), " in shown
    assert "    privacy.epsilon: 1 -> 2\n" in shown
    desk.ok(*desk.revoke(desk.ok("ls")["approvals"][0]["digest"], "ann"))
    assert desk.ok("show", second)["previous"] is None  # what was taken back is no version to compare with


def test_nothing_waits_and_nobody_has_signed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    status, said = desk.call("ls", text=True)
    assert status == 0
    assert said.splitlines() == [
        "Nothing waits for approval.",
        "Nobody has approved anything.",
        "Nobody has a record here.",
    ]
    assert desk.ok("ls") == {"waiting": [], "approvals": [], "people": []}


def test_a_policy_that_refuses_or_asks_for_nothing_is_said(desk: Desk) -> None:
    digest = digest_of(desk)
    allow_approved(desk.federation, people=["ann"], quorum=1)
    assert desk.call("show", digest, text=True)[1].endswith("0 of 1 approvals (still needed: 1 x approved)\n")
    desk.federation.allow("alpha", [])
    assert "The policy refuses it:\n  allow: the digest is" in desk.call("show", digest, text=True)[1]
    assert "no approval is asked for, or the policy refuses it now" in desk.call("ls", text=True)[1]
    desk.federation.allow("alpha", [digest])
    assert desk.call("show", digest, text=True)[1].endswith("The policy accepts it without an approval\n")
    desk.home.policy.write_text("allow: [\n")
    shown = desk.call("show", digest, text=True)[1]
    assert f"The policy refuses it:  {desk.home.policy}:" in shown.replace("\n", "")
    assert "unknown how many approvals (policy.invalid)" in desk.call("ls", text=True)[1]


# -- bad input -------------------------------------------------------------------------------------


def test_the_wrong_passphrase_signs_nothing(desk: Desk) -> None:
    digest = digest_of(desk)
    arguments = desk.sign(digest, "ann")
    arguments[arguments.index("--passphrase-file") + 1] = desk.secret("bob")
    desk.fails("keys.passphrase", *arguments)
    assert desk.ok("ls")["approvals"] == []


def test_the_site_s_own_passphrase_is_never_a_person_s(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment names opens the site; a person proves anew who he is."""
    monkeypatch.setenv("PLASMID_PASSPHRASE_FILE", str(desk.secret("ann")))
    arguments = desk.sign(digest_of(desk), "ann")
    del arguments[arguments.index("--passphrase-file") :][:2]
    at = arguments.index("--passphrase-file")
    desk.fails("keys.no_passphrase", *arguments[:at], "--yes")


def test_a_passphrase_comes_from_a_descriptor_too(desk: Desk) -> None:
    descriptor = os.open(desk.secret("ann"), os.O_RDONLY)
    how = ["--as", "ann", "--reason", "read", "--yes", "--passphrase-fd", descriptor]
    assert desk.ok("sign", digest_of(desk), *how)["approval"]["signer"] == "ann"


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--yes", "--meaning", "seen"], "usage.approval", "'seen' is no meaning"),
        (["--yes", "--reason", "  "], "usage.approval", "the reason is empty"),
        (["--yes", "--reason", "one\ntwo"], "usage.approval", "more than one line"),
        (["--yes", "--as", "cem"], "usage.no_person", "no person of this site is called 'cem'"),
        (["--yes", "--as", "../ann"], "usage.no_person", "(known: ann, bob)"),
        (["--days", "30"], "usage.not_confirmed", "nothing was signed"),
    ],
)
def test_a_signature_that_cannot_be_given(desk: Desk, more: list[str], code: str, said: str) -> None:
    assert said in desk.fails(code, *desk.sign(digest_of(desk), "ann", *more))["message"]
    assert desk.ok("ls")["approvals"] == []


@pytest.mark.parametrize("days", ["0", "367", "-1", "soon"])
def test_an_approval_lasts_a_day_to_a_year(desk: Desk, days: str) -> None:
    status, _ = desk.call(*desk.sign(digest_of(desk), "ann", "--yes", "--days", days), text=True)
    assert status == 2
    assert desk.ok("ls")["approvals"] == []


@pytest.mark.parametrize("verb", ["show", "sign", "revoke"])
@pytest.mark.parametrize("digits", ["", "abc", "f" * 12, "../../people", "*" * 12])
def test_digits_that_name_nothing(desk: Desk, verb: str, digits: str) -> None:
    arguments = {
        "show": ["show", digits],
        "sign": desk.sign(digits, "ann"),
        "revoke": desk.revoke(digits, "ann"),
    }[verb]
    desk.fails("usage.no_approval", *arguments)


def test_only_a_person_of_the_site_takes_an_approval_back(desk: Desk) -> None:
    made = desk.ok(*desk.sign(digest_of(desk), "ann"))["approval"]["digest"]
    desk.fails("usage.no_person", *desk.revoke(made, "cem"))
    wrong = desk.revoke(made, "bob")
    wrong[-1] = desk.secret("ann")
    desk.fails("keys.passphrase", *wrong)
    assert desk.ok("ls")["approvals"][0]["state"] == "valid"


def test_a_person_is_recorded_once_with_a_passphrase_worth_the_name(desk: Desk) -> None:
    how = ["--full-name", "Cem Example", "--role", "officer"]
    made = desk.ok("person", "cem", *how, "--passphrase-file", desk.secret("cem"))["person"]
    listed = desk.ok("ls")["people"]
    assert [one["name"] for one in listed] == ["ann", "bob", "cem"]
    assert {**made, "fingerprint": fingerprint(made["key"])} in listed
    status, said = desk.call("person", "dora", *how, "--passphrase-file", desk.secret("dora"), text=True)
    key = desk.ok("ls")["people"][3]["key"]
    assert status == 0
    assert f"Cem Example (officer) signs as dora; fingerprint {fingerprint(key)}" in said
    desk.fails("usage.exists", "person", "cem", *how, "--passphrase-file", desk.secret("cem"))
    desk.fails("usage.name", "person", "Cem X", *how, "--passphrase-file", desk.secret("cem"))
    desk.fails("usage.name", "person", "eve", "--full-name", "a\nb", "--role", "officer",
               "--passphrase-file", desk.secret("eve"))  # fmt: skip
    short = desk.secret("fay")
    short.write_text("short")
    desk.fails("keys.weak_passphrase", "person", "fay", *how, "--passphrase-file", short)
    seen = desk.secret("gus")
    seen.chmod(0o644)
    desk.fails("keys.passphrase_file", "person", "gus", *how, "--passphrase-file", seen)
    assert len(desk.ok("ls")["people"]) == 4


def test_without_a_site_there_is_nothing_to_approve(tmp_path: Path) -> None:
    status, answer = call(app, "ls", "--home", tmp_path / "nowhere")
    assert (status, answer["error"]["code"]) == (1, "usage.no_site")


def test_every_act_is_in_the_log_and_no_passphrase_is(desk: Desk) -> None:
    made = desk.ok(*desk.sign(digest_of(desk), "ann"))["approval"]["digest"]
    desk.ok(*desk.revoke(made, "bob"))
    entries = desk.federation.log("alpha")
    told = [(e["action"], e["actor"]) for e in entries if e["action"].startswith(("person.", "approval."))]
    assert told == [
        ("approval.requested", "gateway"),
        ("person.added", "owner"),
        ("person.added", "owner"),
        ("approval.signed", "person:ann"),
        ("approval.revoked", "person:bob"),
    ]
    everything = b"".join(path.read_bytes() for path in desk.home.folder.rglob("*") if path.is_file())
    assert b"read on Monday" in everything  # control: reasons are kept
    assert not [name for name in ("ann", "bob") if desk.secret(name).read_bytes() in everything]


def test_the_answer_is_one_line_of_json(desk: Desk) -> None:
    status, said = desk.call("ls", "--format", "json", text=True)
    assert status == 0
    assert json.loads(said)["status"] == "ok"
