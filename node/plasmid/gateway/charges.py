"""What the privacy ledger does, as entries of the audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from plasmid.gateway.audit import AuditLog

ACTIONS = {
    "reserve": "epsilon.reserved",
    "spend": "epsilon.spent",
    "attempt": "epsilon.attempt",
    "release": "epsilon.returned",
    "carry": "epsilon.carried",
}
"""The action in the log for each event of the ledger."""


def logged(audit: AuditLog, actor: str = "gateway") -> Callable[[Mapping[str, Any]], None]:
    """Return what a :class:`~plasmid.gateway.ledger.Ledger` calls with each entry before it is written.

    So the log may say too much of a charge, never too little: what it cannot record is not charged, and
    what is not charged is not computed.
    """

    def note(entry: Mapping[str, Any]) -> None:
        chained = ("counter", "previous", "time", "event", "digest", "run")
        facts = {name: value for name, value in entry.items() if name not in chained}
        audit.write(
            ACTIONS[entry["event"]],
            actor=actor,
            object=entry["digest"],
            run=entry.get("run"),
            counter=entry["counter"],
            **facts,
        )

    return note
