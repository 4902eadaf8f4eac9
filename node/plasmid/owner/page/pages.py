"""The pages: what each shows, and what each form does. They read the site's folder and call what verbs call.

Rules
-----
1. A page writes nothing. An action writes through the same function as the verb of its name, and leads to the
   page that shows what it did.
2. The process holds no key of the site; a person's passphrase is used for one signature and forgotten.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from plasmid.core.errors import PlasmidError
from plasmid.gateway.budget_rows import budget_rows, budgets_of
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.pause import pause, resume
from plasmid.log.audit_log import AuditLog
from plasmid.log.entries import Entry
from plasmid.owner.outbox import read_outbox
from plasmid.owner.page import approving
from plasmid.owner.page.forms import Action, Asked, Page, Shown
from plasmid.owner.page.overview import overview

NAVIGATION = (
    ("/", "Overview"),
    ("/outbox", "Outbox"),
    ("/refusals", "Refusals"),
    ("/approvals", "Approvals"),
    ("/budgets", "Budgets"),
    ("/log", "Log"),
)
ROWS = 200
"""Of a table at most."""


def _entries(home: SiteHome) -> list[Entry]:
    return AuditLog(home.audit).entries()


def show_overview(asked: Asked) -> Shown:
    """The state of the site, pause and resume."""
    return Shown("overview.html", "Overview", overview(asked.home))


def show_outbox(asked: Asked) -> Shown:
    """What left."""
    run = asked.query.get("run")
    outbox = read_outbox(_entries(asked.home), run=run)
    shown = outbox.released[::-1][:ROWS]
    values = {"outbox": outbox, "run": run, "shown": shown, "more": len(outbox.released) > ROWS}
    return Shown("outbox.html", "Outbox", values)


def show_refusals(asked: Asked) -> Shown:
    """What was asked for and did not happen."""
    refused = read_outbox(_entries(asked.home)).refused
    return Shown("refusals.html", "Refusals", {"rows": refused[::-1][:ROWS], "more": len(refused) > ROWS})


def show_budgets(asked: Asked) -> Shown:
    """What each population's budget has spent, reserved and left."""
    try:
        rows = budget_rows(Ledger(asked.home.ledger), budgets_of(asked.home))
    except PlasmidError as error:
        return Shown("budgets.html", "Budgets", {"rows": [], "problem": str(error)})
    return Shown("budgets.html", "Budgets", {"rows": rows, "problem": ""})


def show_log(asked: Asked) -> Shown:
    """The log, newest first, and whether all of it is as it was signed."""
    run = asked.query.get("run", "").strip() or None
    entries = [entry for entry in _entries(asked.home) if run is None or entry["run"] == run]
    pages = max(1, -(-len(entries) // ROWS))
    try:
        page = min(pages, max(1, int(asked.query.get("page", "1"))))
    except ValueError:
        page = 1
    end = len(entries) - (page - 1) * ROWS
    kept = {"run": run} if run else {}
    values = {
        "rows": entries[max(0, end - ROWS) : end][::-1],
        "total": len(entries),
        "run": run,
        "page": page,
        "newer": urlencode({**kept, "page": page - 1}) if page > 1 else None,
        "older": urlencode({**kept, "page": page + 1}) if page < pages else None,
        "verified": _verified(asked.home) if "verify" in asked.query else None,
    }
    return Shown("log.html", "Log", values)


def _verified(home: SiteHome) -> dict[str, Any]:
    try:
        note = AuditLog(home.audit).verify()
    except PlasmidError as error:
        return {"ok": False, "text": str(error)}
    if note is None:
        return {"ok": True, "text": "Every line is whole. Nothing has been signed yet."}
    size = note.checkpoint.size
    return {
        "ok": True,
        "text": f"The first {size} entries are those that this site signed, whole and in order.",
    }


def do_pause(asked: Asked) -> str:
    """Stop everything, at once."""
    pause(asked.home, by=asked.field("who", limit=100), reason=asked.field("reason"))
    return "/"


def do_resume(asked: Asked) -> str:
    """End the pause."""
    resume(asked.home, by=asked.field("who", limit=100))
    return "/"


PAGES: dict[str, Page] = {
    "/": show_overview,
    "/outbox": show_outbox,
    "/refusals": show_refusals,
    "/approvals": approving.show_all,
    "/approvals/{subject}": approving.show_one,
    "/budgets": show_budgets,
    "/log": show_log,
}
ACTIONS: dict[str, Action] = {
    "/pause": do_pause,
    "/resume": do_resume,
    "/approvals/{subject}/sign": approving.do_sign,
    "/approvals/{subject}/revoke": approving.do_revoke,
}
