"""What a node says of itself while it runs: ``node.lock``, which it holds, and ``status.json``.

Rules
-----
1. A node is up if its lock is held, and only then does ``status.json`` count: the kernel lets go of the lock
   however the process ends.
2. The status is for people and other processes of the owner; nothing depends on it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from plasmid.core.clock import now, parse, stamp
from plasmid.core.errors import LinkError, PlasmidError, ProtocolError, StorageError
from plasmid.core.files import storage_error
from plasmid.gateway.budget_rows import budget_rows, budgets_of
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.pause import paused
from plasmid.log.files import AuditFiles
from plasmid.uplink.enrol import Credential, fetch_card
from plasmid.uplink.membership import validity

HEARD_LATELY = timedelta(seconds=60)
"""Three long polls: a node that has heard nothing for so long does not reach the coordinator."""


@contextmanager
def holding(home: SiteHome) -> Iterator[None]:
    """Be the node of *home*. Raises StorageError (``storage.in_use``) if another process is."""
    try:
        file = home.lock.open("a")
    except OSError as error:
        raise storage_error(error, home.lock) from error
    with file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                "storage.in_use",
                f"a node is running from {home.folder}.",
                "See 'plasmid site status'; end it before you start another.",
            ) from error
        try:
            yield
        finally:
            home.status.unlink(missing_ok=True)


def is_up(home: SiteHome) -> bool:
    """Whether a node runs from *home*."""
    try:
        with home.lock.open("r") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write_status(home: SiteHome, **facts: Any) -> None:
    """Replace the status. It is not made durable: after a crash nobody reads it."""
    partial = home.status.with_suffix(".partial")
    partial.write_text(json.dumps({"process": os.getpid(), **facts}))
    partial.replace(home.status)


def read_status(home: SiteHome) -> dict[str, Any]:
    """Return what the running node last said; nothing if none runs, or it has not said anything yet."""
    if not is_up(home):
        return {}
    return _parsed(home.status)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def site_status(home: SiteHome) -> dict[str, Any]:
    """Return what a site's owner wants to know, as JSON values. It needs no passphrase.

    What cannot be read is left empty, and ``problems`` says why.
    """
    config = home.config()
    said, known = read_status(home), paused(home)
    found: dict[str, Any] = {
        "site": config.name,
        "organisation": config.organisation,
        "up": is_up(home),
        "since": said.get("since"),
        "paused": None if known is None else asdict(known),
        "coordinator": None,
        "certificate_ends": None,
        "isolation": said.get("isolation"),
        "runs": said.get("runs", {}),
        "budgets": [],
        "last_entry": None,
        "problems": [],
    }
    parts: dict[str, Callable[[], Any]] = {
        "coordinator": lambda: _coordinator(home, said),
        "certificate_ends": lambda: _certificate_ends(home),
        "budgets": lambda: budget_rows(Ledger(home.ledger), budgets_of(home)),
        "last_entry": lambda: _last_entry(home),
    }
    for name, part in parts.items():
        try:
            found[name] = part()
        except PlasmidError as error:
            found["problems"].append(f"{name}: {error.message}")
    return found


def _coordinator(home: SiteHome, said: dict[str, Any]) -> dict[str, Any] | None:
    credential = Credential(home.folder)
    if not credential.enrolled:
        return None
    url, key = credential.coordinator()
    at = said.get("coordinator") or {"url": url, "heard": None, "end_to_end": None}
    if at["heard"] is not None:
        silence = now() - parse(at["heard"])
        return {**at, "reachable": silence < HEARD_LATELY}
    try:
        reachable = fetch_card(url, network=credential.network(), folder=home.folder).key == key
    except (LinkError, ProtocolError):
        reachable = False
    return {**at, "reachable": reachable}


def _certificate_ends(home: SiteHome) -> str | None:
    certificate = Credential(home.folder).certificate
    return stamp(validity(certificate).ends) if certificate.exists() else None


def _last_entry(home: SiteHome) -> dict[str, Any] | None:
    files = AuditFiles(home.audit)
    line = files.line_before(files.log.stat().st_size) if files.log.exists() else None
    if line is None:
        return None
    entry = json.loads(line)
    return {name: entry[name] for name in ("seq", "time", "action", "actor", "result", "run")}
