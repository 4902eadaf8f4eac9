"""The owner's stop: ``paused.json``. While it is there, nothing leaves the site.

Rules
-----
1. A file that is there means paused, whatever is in it; it survives restarts.
2. It is asked for again right before anything leaves: a pause that comes while a worker computes holds.
3. It needs no passphrase. It is in force before it is logged; its end is logged before it is in force.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from plasmid.core.clock import Clock, now, stamp
from plasmid.core.errors import SiteFailed
from plasmid.core.files import storage_error, sync_folder, write_atomic
from plasmid.gateway.home import SiteHome
from plasmid.log.audit_log import AuditLog


@dataclass(frozen=True)
class Pause:
    """Who paused the site, when (UTC, empty if the file cannot be read), and why."""

    by: str
    time: str
    reason: str


def pause(home: SiteHome, *, by: str, reason: str, clock: Clock = now) -> Pause:
    """Pause the site; a pause that is in force stays as it is. Raises StorageError."""
    known = paused(home)
    if known is not None:
        return known
    made = Pause(by=by, time=stamp(clock()), reason=reason)
    write_atomic(home.paused, json.dumps(made.__dict__).encode())
    AuditLog(home.audit, clock=clock).write("paused", actor=f"person:{by}", reason=reason)
    return made


def resume(home: SiteHome, *, by: str, clock: Clock = now) -> Pause | None:
    """End the pause and return what it was; None if there was none. Raises StorageError."""
    known = paused(home)
    if known is None:
        return None
    log = AuditLog(home.audit, clock=clock)
    log.write("resumed", actor=f"person:{by}", paused_by=known.by, paused_since=known.time)
    try:
        home.paused.unlink(missing_ok=True)
        sync_folder(home.folder)
    except OSError as error:
        raise storage_error(error, home.paused) from error
    return known


def paused(home: SiteHome) -> Pause | None:
    """Return the pause that is in force, or None."""
    try:
        text = home.paused.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return _unreadable()
    try:
        found = json.loads(text)
        return Pause(by=str(found["by"]), time=str(found["time"]), reason=str(found["reason"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return _unreadable()


def _unreadable() -> Pause:
    return Pause(by="unknown", time="", reason="paused.json is there and cannot be read")


def check_running(home: SiteHome) -> None:
    """Raise SiteFailed (``site.paused``) while the site is paused."""
    known = paused(home)
    if known is not None:
        raise SiteFailed(
            "site.paused",
            f"the site was paused by {known.by} on {known.time or 'an unknown day'}: {known.reason}.",
            "Its owner ends that with 'plasmid site resume'.",
        )
