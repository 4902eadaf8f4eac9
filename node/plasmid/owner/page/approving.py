"""Approvals on the page: what waits, what it would do in plain words, and a person's signature.

Rules
-----
1. What is signed is the subject whose digest is in the address: the one that was read, byte for byte.
2. A signature asks for the person's own passphrase, whoever is logged in to the page (21 CFR 11.200).
3. One signature is made at a time: opening a key takes memory on purpose.
"""

from __future__ import annotations

import re
import threading
from itertools import groupby
from typing import get_args

from plasmid.core.errors import UsageError
from plasmid.gateway.approvals.files import Case
from plasmid.gateway.approvals.quorum import Signature
from plasmid.gateway.approvals.register import MAX_DAYS, Approvals
from plasmid.gateway.approvals.review import document_name, review
from plasmid.gateway.keys.keystore import Passphrase
from plasmid.log.audit_log import AuditLog
from plasmid.owner.page.forms import Asked, Shown
from plasmid.protocol.approval import Meaning

_ONE = threading.Lock()
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _approvals(asked: Asked) -> Approvals:
    return Approvals(asked.home, AuditLog(asked.home.audit))


def _case(asked: Asked, approvals: Approvals) -> Case:
    subject = asked.path["subject"]
    for case in approvals.files.cases():
        if case.subject.digest() == subject:
            return case
    raise UsageError(
        "usage.no_approval", "there is no such case at this site.", "Choose one of the page Approvals."
    )


def show_all(asked: Asked) -> Shown:
    """What waits for approval, and every approval that was given."""
    approvals = _approvals(asked)
    names = {case.subject: document_name(case) for case in approvals.files.cases()}
    values = {
        "waiting": [
            (one, one.subject.digest(), names.get(one.subject, "?")) for one in approvals.files.all_waiting()
        ],
        "given": [
            (said, said.approval.subject.digest(), names.get(said.approval.subject, "?"))
            for said in reversed(approvals.all_signatures())
        ],
        "people": approvals.people.all(),
    }
    return Shown("approvals.html", "Approvals", values)


def show_one(asked: Asked) -> Shown:
    """One case: what it does, how it differs from the last approved one, who has signed; and the form."""
    approvals = _approvals(asked)
    found = review(asked.home, approvals, _case(asked, approvals))
    sections = [(name, list(facts)) for name, facts in groupby(found.facts, key=lambda fact: fact.section)]
    values = {
        "found": found,
        "subject": found.case.subject,
        "digest": found.case.subject.digest(),
        "sections": sections,
        "standing": found.verdict.standing if found.verdict else None,
        "refused": found.refused,
        "people": approvals.people.all(),
        "meanings": get_args(Meaning),
        "max_days": MAX_DAYS,
    }
    return Shown("approval.html", f"Approve {found.name}?", values)


def do_sign(asked: Asked) -> str:
    """Sign as the person whose passphrase is given."""
    approvals = _approvals(asked)
    case = _case(asked, approvals)
    with _ONE:
        approvals.sign(
            case,
            asked.field("name", limit=63),
            meaning=_meaning(asked.field("meaning")),
            reason=asked.field("reason", limit=2000),
            days=_days(asked.field("days", limit=4)),
            passphrase=_passphrase(asked),
        )
    return f"/approvals/{case.subject.digest()}"


def do_revoke(asked: Asked) -> str:
    """Take an approval back, as the person whose passphrase is given."""
    approvals = _approvals(asked)
    case = _case(asked, approvals)
    digest = asked.field("approval", limit=64)
    mine: list[Signature] = approvals.signatures(case.subject)
    if not _DIGEST.fullmatch(digest) or digest not in {said.digest for said in mine}:
        raise UsageError("usage.no_approval", "this is no approval of this case.", "Load the page anew.")
    with _ONE:
        approvals.revoke(
            digest,
            asked.field("name", limit=63),
            reason=asked.field("reason", limit=2000),
            passphrase=_passphrase(asked),
        )
    return f"/approvals/{case.subject.digest()}"


def _passphrase(asked: Asked) -> Passphrase:
    given = asked.form.get("passphrase", "")  # as it was typed: a space may be part of it
    return lambda: given


def _meaning(text: str) -> Meaning:
    for known in get_args(Meaning):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise UsageError("usage.approval", "this is no meaning of a signature.", "Choose one of the list.")


def _days(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text):
        raise UsageError("usage.approval", "the days are not a whole number.", f"Give 1 to {MAX_DAYS}.")
    return int(text)
