"""The first page: is the site up, who may run what, what left, and does the log hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from plasmid.core.errors import PlasmidError
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.budget_rows import budget_rows, budgets_of
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members.peers import read_peers
from plasmid.gateway.pause import paused
from plasmid.gateway.policy.file import read_policy
from plasmid.gateway.status import is_up, read_status
from plasmid.log.audit_log import AuditLog
from plasmid.owner.outbox import read_outbox
from plasmid.protocol.identity import fingerprint
from plasmid.web.render import number, size, utc

Mark = Literal["", "good", "warn", "bad"]


@dataclass(frozen=True)
class Card:
    """One figure of the overview."""

    name: str
    value: str
    note: str = ""
    mark: Mark = ""


def overview(home: SiteHome) -> dict[str, Any]:
    """Return what the template shows. What cannot be read is said where it would stand."""
    config = home.config()
    makers = (_node, _policy, _approvals, _left, _refused, _budget, _log)
    cards = []
    for make in makers:
        try:
            cards.append(make(home))
        except PlasmidError as error:
            cards.append(Card(make.__name__.strip("_").capitalize(), "cannot be read", str(error), "bad"))
    identity = [("Name", config.name), ("Organisation", config.organisation)]
    identity += [("Fingerprint", fingerprint(home.public))] if home.keys.exists() else []
    if home.peers.exists():
        known = read_peers(home.peers)
        identity.append(("Coordinator's fingerprint", fingerprint(known.coordinator)))
        identity.append(("Confirmed peers", ", ".join(peer.name for peer in known.sites) or "none"))
    return {"cards": cards, "paused": paused(home), "identity": identity}


def _node(home: SiteHome) -> Card:
    if paused(home) is not None:
        return Card("Node", "paused", "nothing runs, nothing leaves", "bad")
    if not is_up(home):
        return Card("Node", "down", "'plasmid site start' starts it", "warn")
    said = read_status(home)
    runs = said.get("runs") or []
    told = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} under way" if runs else "no run under way"
    return Card("Node", "up", told, "good")


def _policy(home: SiteHome) -> Card:
    policy = read_policy(home.policy)
    ways, rule = len(policy.allow), policy.require
    note = (
        f"unit: {rule.unit}; protect: {rule.protect}; {rule.min_organisations} organisations or more in a sum"
    )
    if not ways:
        return Card("Policy", "nothing may run", note, "warn")
    return Card("Policy", f"{ways} {'rule lets' if ways == 1 else 'rules let'} something in", note, "good")


def _approvals(home: SiteHome) -> Card:
    waiting = Approvals(home, AuditLog(home.audit)).files.all_waiting()
    if not waiting:
        return Card("Approvals", "nothing waits")
    until = min(one.expires for one in waiting)
    what = "run waits" if len(waiting) == 1 else "runs wait"
    return Card("Approvals", f"{len(waiting)} {what} for signatures", f"until {utc(until)} UTC", "warn")


def _left(home: SiteHome) -> Card:
    outbox = read_outbox(AuditLog(home.audit).entries())
    if not outbox.released:
        return Card("Outbox", "nothing has left")
    newest = outbox.released[-1]
    note = f"the newest at {utc(newest.time)} UTC, of {newest.run}"
    return Card("Outbox", f"{len(outbox.released)} bodies, {size(outbox.body_bytes)}", note)


def _refused(home: SiteHome) -> Card:
    refused = read_outbox(AuditLog(home.audit).entries()).refused
    if not refused:
        return Card("Refusals", "none")
    newest = refused[-1]
    return Card("Refusals", str(len(refused)), f"the newest at {utc(newest.time)} UTC by {newest.rule}")


def _budget(home: SiteHome) -> Card:
    rows = [row for row in budget_rows(Ledger(home.ledger), budgets_of(home)) if row["epsilon"]["budget"]]
    if not rows:
        return Card("Privacy budgets", "none", "no run with a privacy unit is admitted")
    least = min(rows, key=lambda row: row["epsilon"]["left"] / row["epsilon"]["budget"])
    left = least["epsilon"]["left"]
    value = f"ε {number(left)} left of {number(least['epsilon']['budget'])}"
    return Card(
        "Privacy budgets", value, f"of {least['population']}, where least is left", "" if left else "warn"
    )


def _log(home: SiteHome) -> Card:
    files = AuditLog(home.audit).files
    newest = files.newest()
    if newest is None:
        return Card("Log", "nothing signed yet", mark="warn")
    cosigners = sorted(files.cosigned_notes())
    note = f"cosigned by {', '.join(cosigners)}" if cosigners else "cosigned by no other site yet"
    value = f"{newest.note.checkpoint.size} entries signed"
    return Card("Log", value, note, "good" if cosigners else "warn")
