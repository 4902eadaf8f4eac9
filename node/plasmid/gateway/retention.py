"""How long a site keeps what it knows of a run beside its log: the owner's purge, and that of time.

What lives longer than a run
----------------------------
* ``lineage/runs``: who was in it. Purged by hand or after ``retention_days``.
* ``personal``: what the site learned for itself in it (:mod:`plasmid.gateway.personal`). Purged with that:
  rows of who asks to be erased have taught it something. Where nobody knows any more who was in the run, it
  is purged ``retention_days`` after it was last written.
* ``lineage/statistics``: the sets of people that released statistics were about, which the overlap guard
  needs for as long as the statistics are known outside. Never purged.
* ``runs``: the mark that it was admitted, its last epoch and round; ``ledger.jsonl``; ``audit``; signed
  approvals. Never purged: a run that could be admitted twice, privacy spent twice and a log with holes are
  worse than knowing that there was a run.

Snapshots, activations, canaries and what transforms hold live in memory or in files without a name, and end
with the processes of the run. Of adapters, a site keeps its own alone.
"""

from __future__ import annotations

from plasmid.core.clock import Clock, now
from plasmid.gateway.home import SiteHome
from plasmid.gateway.participation import Lineage
from plasmid.gateway.personal import Personal
from plasmid.log.audit_log import AuditLog


def lineage_of(home: SiteHome) -> Lineage:
    """Return the records of who was in which run."""
    return Lineage(home.lineage / "runs")


def purge(home: SiteHome, run: str, *, by: str, clock: Clock = now) -> bool:
    """Forget who was in *run* and what it taught the site, and log that; return whether anything was known.

    It is logged before it is done, so that a crash in between leaves an entry too many.

    Raises
    ------
    StorageError
        It cannot be logged, and is not done; or the record cannot be removed.
    UsageError
        ``usage.run``.
    """
    found = _known(home, run)
    if not found:
        return False
    AuditLog(home.audit, clock=clock).write("purged", actor=f"person:{by}", run=run, what=found)
    _purge(home, run)
    return True


def purge_expired(home: SiteHome, audit: AuditLog, *, clock: Clock = now) -> list[str]:
    """Purge what is older than the owner's ``retention_days``; return the runs. Raises StorageError."""
    days, records, time = home.config().retention_days, lineage_of(home), clock()
    alone = [run for run in Personal(home.personal).expired(days, time) if not records.knows(run)]
    gone = [*records.expired(days, time), *alone]
    for run in gone:
        found = _known(home, run)
        audit.write("purged", actor="site", run=run, rule="retention_days", days=days, what=found)
        _purge(home, run)
    return gone


def _known(home: SiteHome, run: str) -> list[str]:
    """Return what is kept of *run*."""
    kept: dict[str, Lineage | Personal] = {"lineage": lineage_of(home), "personal": Personal(home.personal)}
    return [name for name, records in kept.items() if records.knows(run)]


def _purge(home: SiteHome, run: str) -> None:
    """Forget it, the record that says how old it is last."""
    Personal(home.personal).purge(run)
    lineage_of(home).purge(run)
