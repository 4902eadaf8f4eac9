"""Approvals on the owner's page: what is shown is what is signed, by a person who proves who he is."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.approvals.review import review
from plasmid.owner.page.server import PageServer
from support.federation.approving import SECRET, add_people, allow_approved, sign
from support.federation.attacks import BUDGET
from support.federation.bundle_recipes import RECORD, bundle_recipe
from support.federation.in_memory import Federation


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """A federation whose run waits at alpha for the approvals of ann and bob."""
    made = Federation(tmp_path)
    allow_approved(made)
    add_people(made)
    answer = made.admit("alpha")
    assert answer.code == "policy.awaiting_approval"
    return made


@pytest.fixture
def approvals(federation: Federation) -> Approvals:
    return federation.gateways["alpha"].approvals


@pytest.fixture
def page(federation: Federation) -> Iterator[PageServer]:
    server = PageServer(federation.home("alpha"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def owner(page: PageServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page.base, trust_env=False, timeout=30) as client:
        secret = page.link().partition("secret=")[2]
        assert client.post(f"{page.base}/login", data={"secret": secret}).status_code == 303
        yield client


def token(owner: httpx.Client) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', owner.get("/").text)
    assert found
    return found[1]


def case(approvals: Approvals) -> str:
    (found,) = approvals.files.cases()
    return found.subject.digest()


def fields(owner: httpx.Client, name: str = "ann", **changes: str) -> dict[str, str]:
    """Return a form that signs as *name*."""
    values = {
        "csrf": token(owner),
        "name": name,
        "meaning": "approved",
        "reason": "read on Monday",
        "days": "30",
        "passphrase": SECRET.format(name),
    }
    return values | changes


def test_a_run_is_read_signed_and_then_admitted(
    owner: httpx.Client, federation: Federation, approvals: Approvals
) -> None:
    subject = case(approvals)
    listed = owner.get("/approvals").text
    assert f"/approvals/{subject}" in listed
    assert federation.run in listed
    shown = owner.get(f"/approvals/{subject}").text
    for words in (
        "What runs",
        "What will leave",
        "Who receives",
        "0 of 2 approvals",
        "This is the first version",
    ):
        assert words in shown, words
    assert federation.digest in shown
    for name in ("ann", "bob"):
        assert owner.post(f"/approvals/{subject}/sign", data=fields(owner, name)).status_code == 303
    shown = owner.get(f"/approvals/{subject}").text
    assert "2 of 2 approvals" in shown
    assert "Ann Example (officer)" in shown
    assert "approved: read on Monday" in shown
    assert federation.admit("alpha").accepted
    signed = [line for line in federation.log("alpha") if line["action"] == "approval.signed"]
    assert [line["actor"] for line in signed] == ["person:ann", "person:bob"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 303),  # the positive control
        ({"passphrase": "wrong horse battery of ann"}, 409),
        ({"passphrase": SECRET.format("bob")}, 409),
        ({"passphrase": ""}, 409),
        ({"name": "mallory"}, 409),
        ({"name": "../ann"}, 409),
        ({"meaning": "whatever"}, 409),
        ({"days": "0"}, 409),
        ({"days": "367"}, 409),
        ({"days": "-1"}, 409),
        ({"reason": " "}, 409),
        ({"csrf": ""}, 403),
    ],
)
def test_only_the_person_s_own_passphrase_signs(
    owner: httpx.Client, approvals: Approvals, changes: dict[str, str], status: int
) -> None:
    answer = owner.post(f"/approvals/{case(approvals)}/sign", data=fields(owner, **changes))
    assert answer.status_code == status
    assert len(approvals.all_signatures()) == (status == 303)
    assert SECRET.format("ann") not in answer.text


def test_another_case_than_the_one_that_was_read_is_not_signed(
    owner: httpx.Client, approvals: Approvals
) -> None:
    subject = case(approvals)
    last = "1" if subject.endswith("0") else "0"
    for other in ("0" * 64, subject[:8], subject[:-1] + last, "x"):
        assert owner.post(f"/approvals/{other}/sign", data=fields(owner)).status_code == 409
        assert owner.get(f"/approvals/{other}").status_code == 409
    assert approvals.all_signatures() == []


def test_a_signature_is_taken_back(owner: httpx.Client, federation: Federation, approvals: Approvals) -> None:
    (waiting,) = approvals.files.cases()
    said = sign(approvals, waiting, "ann")
    path = f"/approvals/{case(approvals)}/revoke"
    form = {"csrf": token(owner), "approval": said.digest, "name": "bob", "reason": "no", "passphrase": "no"}
    assert owner.post(path, data=form).status_code == 409
    right = {**form, "passphrase": SECRET.format("bob")}
    assert owner.post(path, data={**right, "approval": said.digest[:8]}).status_code == 409
    assert [one.state for one in approvals.all_signatures()] == ["valid"]
    assert owner.post(path, data=right).status_code == 303
    assert [one.state for one in approvals.all_signatures()] == ["revoked"]
    assert "revoked" in owner.get(f"/approvals/{case(approvals)}").text


def test_a_passphrase_is_in_no_log_and_no_page(
    owner: httpx.Client, federation: Federation, approvals: Approvals, capfd: pytest.CaptureFixture[str]
) -> None:
    for given in (SECRET.format("ann"), "wrong horse battery CANARY-4711"):
        owner.post(f"/approvals/{case(approvals)}/sign", data=fields(owner, passphrase=given))
    out, err = capfd.readouterr()
    kept = b"".join(
        path.read_bytes() for path in federation.home("alpha").folder.rglob("*") if path.is_file()
    )
    seen = owner.get(f"/approvals/{case(approvals)}").text
    for secret in (SECRET.format("ann"), "CANARY-4711"):
        assert secret not in out + err + seen
        assert secret.encode() not in kept


CODE = """
import numpy as np

# <b>counts</b> ages
def per_record(state, row, settings):
    return np.full(3, row["age"] or 0.0)
"""


def test_who_approves_python_reads_all_of_it(tmp_path: Path) -> None:
    document = bundle_recipe(CODE, privacy=RECORD, files={"other.py": "LIMIT = 40\n"})
    tables = dict.fromkeys(("alpha", "beta", "gamma"), "age\n30\n")
    federation = Federation(
        tmp_path, document=document, tables=tables, public_size=1000, budgets={"default": BUDGET}
    )
    allow_approved(federation)
    add_people(federation)
    assert federation.admit("alpha").code == "policy.awaiting_approval"
    approvals = federation.gateways["alpha"].approvals
    server = PageServer(federation.home("alpha"))
    server.start()
    try:
        with httpx.Client(base_url=server.base, trust_env=False, timeout=30) as client:
            secret = server.link().partition("secret=")[2]
            client.post(f"{server.base}/login", data={"secret": secret})
            shown = html.unescape(client.get(f"/approvals/{case(approvals)}").text)
    finally:
        server.close()
    for line in [*CODE.splitlines(), "LIMIT = 40", "entry.py", "other.py"]:
        assert line in shown
    found = review(federation.home("alpha"), approvals, approvals.files.cases()[0])
    assert [name for name, _ in found.python] == ["entry.py", "other.py"]
    assert "\n".join(found.python[0][1]) == document.bundle.files["entry.py"]
