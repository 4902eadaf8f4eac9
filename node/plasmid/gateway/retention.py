"""How long a site keeps what it knows of a run beside its log: the owner's purge, and that of time.

What lives longer than a run
----------------------------
* ``lineage/runs``: who was in it. Purged by hand or after ``retention_days``.
* ``lineage/statistics``: the sets of people that released statistics were about, which the overlap guard
  needs for as long as the statistics are known outside. Never purged.
* ``runs``: the mark that it was admitted, its last epoch and round; ``ledger.jsonl``; ``audit``; signed
  approvals. Never purged: a run that could be admitted twice, privacy spent twice and a log with holes are
  worse than knowing that there was a run.

Snapshots, activations, canaries and what transforms hold live in memory or in files without a name, and end
with the processes of the run. Adapters are not kept at a site.
"""

from __future__ import annotations

from plasmid.core.clock import Clock, now
from plasmid.gateway.audit import AuditLog
from plasmid.gateway.home import SiteHome
from plasmid.gateway.lineage import Lineage


def lineage_of(home: SiteHome) -> Lineage:
    """Return the records of who was in which run."""
    return Lineage(home.lineage / "runs")


def purge(home: SiteHome, run: str, *, by: str, clock: Clock = now) -> bool:
    """Forget who was in *run*, and log that; return whether anything was known of it.

    It is logged before it is done, so that a crash in between leaves an entry too many.

    Raises
    ------
    StorageError
        It cannot be logged, and is not done; or the record cannot be removed.
    UsageError
        ``usage.run``.
    """
    records = lineage_of(home)
    if not records.knows(run):
        return False
    AuditLog(home.audit, clock=clock).write("purged", actor=f"person:{by}", run=run, what=["lineage"])
    return records.purge(run)


def purge_expired(home: SiteHome, audit: AuditLog, *, clock: Clock = now) -> list[str]:
    """Purge what is older than the owner's ``retention_days``; return the runs. Raises StorageError."""
    days, records = home.config().retention_days, lineage_of(home)
    gone = records.expired(days, clock())
    for run in gone:
        audit.write("purged", actor="site", run=run, rule="retention_days", days=days, what=["lineage"])
        records.purge(run)
    return gone
