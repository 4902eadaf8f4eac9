"""Checks of what lies in the site's folder: keys, rights, policy, peers, ledger, log, disk."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from datetime import timedelta

from plasmid.core.clock import parse, stamp
from plasmid.gateway.approvals.people import People
from plasmid.gateway.budget_rows import budget_rows
from plasmid.gateway.keys.keystore import CHOSEN, DRAWN, stated_cost
from plasmid.gateway.ledger import ACTIONS, Ledger
from plasmid.gateway.members.heads import Heads
from plasmid.gateway.members.peers import read_peers
from plasmid.gateway.members.revocations import Revoked
from plasmid.gateway.pause import paused
from plasmid.gateway.policy.file import Policy, read_policy
from plasmid.isolation.choice import choose, probe
from plasmid.isolation.levels import at_least
from plasmid.log.audit_log import MAX_SKEW_S, AuditLog
from plasmid.owner.doctor.report import Finding, Subject, fail, ok, warn

SECRET = ("keys.json", "*.keys.json", "tls.pem", "*.key", "*passphrase*")
"""Names of files that hold private keys, sealed or not."""
FREE_WARN_BYTES = 1_000_000_000
FREE_FAIL_BYTES = 100_000_000
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITERS = stat.S_IWGRP | stat.S_IWOTH


def keys(subject: Subject) -> Iterator[Finding]:
    """The private keys are there, encrypted, and worth their passphrase."""
    home = subject.home
    config = home.config()
    cost = stated_cost(home.keys)
    if cost.n < DRAWN.n:
        yield fail(
            f"a guess at the passphrase costs next to nothing (scrypt n = {cost.n}).",
            "Run 'plasmid site rekey'.",
        )
    elif cost.n < CHOSEN.n:
        yield warn(
            f"keys are encrypted (scrypt n = {cost.n}), enough for a drawn passphrase of 256 bits alone.",
            "If a person chose the passphrase, run 'plasmid site rekey'.",
        )
    else:
        yield ok(f"keys are encrypted (scrypt n = {cost.n}, AES-256-GCM).")
    for plain in (home.folder / "identity.key", home.folder / "tls.key"):
        if plain.exists():
            yield fail(
                f"{plain.name} holds a key in the clear.", "Remove it; make new keys if others saw it."
            )
    tls = home.folder / "tls.pem"
    if tls.exists() and b"ENCRYPTED PRIVATE KEY" not in tls.read_bytes():
        yield fail("tls.pem holds no encrypted key.", "Run 'plasmid site rotate' for a new one.")
    if subject.keys is not None:
        identity = subject.keys.identity()
        if (identity.name, identity.public) != (config.name, home.public):
            yield fail("the keys are not those of this site.", "Restore keys.json and site.yaml together.")
        else:
            yield ok("the passphrase opens them, and they are this site's.")


def rights(subject: Subject) -> Iterator[Finding]:
    """Nobody but the owner may read the folder, change a file in it, or read a key."""
    folder = subject.home.folder
    found = 0
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _OTHERS:
        found += 1
        yield fail(f"{folder} is open to others ({mode:04o}).", f"chmod 700 '{folder}'")
    me = os.getuid()
    for path in sorted(folder.rglob("*")):
        said = path.lstat()
        mode, name = stat.S_IMODE(said.st_mode), path.relative_to(folder)
        if stat.S_ISLNK(said.st_mode):
            found += 1
            yield warn(f"{name} is a link to somewhere else.", "Put the file itself there.")
        elif mode & _WRITERS:
            found += 1
            yield fail(f"{name} may be changed by others ({mode:04o}).", f"chmod go-w '{path}'")
        elif stat.S_ISREG(said.st_mode) and mode & _OTHERS and any(path.match(one) for one in SECRET):
            found += 1
            yield fail(f"{name} holds keys, and others may read it ({mode:04o}).", f"chmod 600 '{path}'")
        elif said.st_uid != me:
            found += 1
            yield warn(f"{name} belongs to another user.", f"Run this as that user, or: chown {me} '{path}'")
    if not found:
        yield ok(f"{folder} and all in it are its owner's alone.")


def policy(subject: Subject) -> Iterator[Finding]:
    """The policy parses; what it lets in, and whether its people and budgets are there."""
    home = subject.home
    rules = read_policy(home.policy)
    if not rules.allow:
        yield warn("the policy lets nothing run.", "Name digests or approvers under 'allow' in policy.yaml.")
    else:
        yield ok(f"{_ways(rules)}; unit: {rules.require.unit}, protect: {rules.require.protect}.")
    if rules.require.protect == "none":
        yield warn(
            "the policy also lets contributions leave in the clear.",
            "Say 'protect: masked' unless you mean it.",
        )
    known = {person.name for person in People(home.people).all()}
    named = {name for rule in rules.allow if rule.approvers for name in rule.approvers.people}
    if named - known:
        yield fail(
            f"the policy names approvers without a record here: {', '.join(sorted(named - known))}.",
            "Each makes one with 'plasmid approvals person NAME'.",
        )
    population = home.config().population
    if population not in rules.budgets:
        yield warn(
            f"the population {population!r} has no privacy budget: no run with a unit is admitted.",
            "Add it under 'budgets' in policy.yaml, if such runs are wanted.",
        )


def _ways(rules: Policy) -> str:
    digests = sum(len(rule.recipes or ()) for rule in rules.allow if rule.approvers is None)
    approved = sum(rule.approvers is not None for rule in rules.allow)
    return f"{digests} digests may run without, {approved} rules only with approvals"


def peers(subject: Subject) -> Iterator[Finding]:
    """Enough confirmed organisations are there for a sum, and nobody here is revoked."""
    home = subject.home
    known = read_peers(home.peers)
    organisations = {peer.organisation for peer in known.sites} | {home.config().organisation}
    revoked = Revoked(home.revoked)
    for name, key in [(home.config().name, home.public), *((peer.name, peer.key) for peer in known.sites)]:
        if revoked.has(key):
            yield fail(
                f"{name} was revoked by the coordinator.", "Nothing runs with it; ask its operator why."
            )
    try:
        needed = read_policy(home.policy).require.min_organisations
    except Exception:  # noqa: BLE001 - the policy's own check says what is wrong with it
        needed = 3
    if len(organisations) < needed:
        yield warn(
            f"{len(organisations)} organisations are confirmed here, a masked sum needs {needed}.",
            "Compare fingerprints with their owners, then 'plasmid site peers confirm'.",
        )
    else:
        yield ok(f"{len(known.sites)} peers of {len(organisations)} organisations are confirmed.")


def ledger(subject: Subject) -> Iterator[Finding]:
    """The chain of the privacy ledger holds, and the log knows of no newer charge."""
    home = subject.home
    book = Ledger(home.ledger)
    entries = book.entries()
    Heads(home.heads).all()
    counter = book.head()[0]
    charges = [entry for entry in AuditLog(home.audit).entries() if entry["action"] in ACTIONS.values()]
    ahead = [entry for entry in charges if entry["facts"].get("counter", 0) > counter]
    if len(ahead) > 1:
        yield fail(
            f"the ledger ends with entry {counter}, the log knows {len(ahead)} more: it was rolled back.",
            "Restore its newest copy; without one, 'plasmid privacy ledger --carry-forward'.",
        )
        return
    if ahead:  # the log is written first, so a crash between the two looks like this
        yield warn(
            f"the log knows one entry more than the ledger's {counter}: a crash came between the two.",
            "If no crash did, the ledger was rolled back: restore its newest copy.",
        )
    yield ok(f"{len(entries)} entries, the chain holds.")
    for row in budget_rows(book, read_policy(home.policy).budgets):
        left = row["epsilon"]["left"]
        if left is not None and left <= 0:
            yield warn(
                f"nothing is left of the budget of {row['population']}.", "Only a larger one gives room."
            )


def audit(subject: Subject) -> Iterator[Finding]:
    """Every entry of the log is as it was signed, and others have seen it."""
    home = subject.home
    log = AuditLog(home.audit, None if subject.keys is None else subject.keys.identity(), clock=subject.clock)
    if log.files.shown.exists():
        yield fail(
            "a peer holds a newer log of this site: it was rolled back.", "Restore the newest copy of audit/."
        )
        return
    note = log.verify()
    if note is None:
        yield warn("the log has no signed checkpoint yet.", "Start the site once.")
        return
    yield ok(f"{note.checkpoint.size} entries are those that this site signed.")
    cosigned = log.files.cosigned_notes()
    if not cosigned:
        yield warn(
            "no other site has cosigned the log: a rewritten one would not show.",
            "It is cosigned once a peer with whom it shares a project is connected.",
        )
    else:
        newest = max(one.checkpoint.size for one in cosigned.values())
        yield ok(f"{len(cosigned)} sites have cosigned it, the newest {newest} entries.")


def clock(subject: Subject) -> Iterator[Finding]:
    """The clock is not behind the log."""
    entries = AuditLog(subject.home.audit).entries()
    if not entries:
        yield ok(f"the clock says {stamp(subject.clock())}; the log is empty.")
        return
    behind = parse(entries[-1]["time"]) - subject.clock()
    if behind > timedelta(seconds=MAX_SKEW_S):
        yield fail(
            f"the clock is {behind.total_seconds():.0f} s behind the newest entry of the log.",
            "Set it right: nothing leaves.",
        )
    else:
        yield ok(f"the clock says {stamp(subject.clock())}, not before the newest entry of the log.")


def disk(subject: Subject) -> Iterator[Finding]:
    """There is room for the log and the ledger: without it nothing leaves."""
    free = shutil.disk_usage(subject.home.folder).free
    what = f"{free / 1e9:.1f} GB free for the site's folder."
    if free < FREE_FAIL_BYTES:
        yield fail(what, "Free some space: what cannot be logged does not leave.")
    elif free < FREE_WARN_BYTES:
        yield warn(what, "Free some space soon.")
    else:
        yield ok(what)


def state(subject: Subject) -> Iterator[Finding]:
    """Whether the owner has paused the site."""
    known = paused(subject.home)
    if known is None:
        yield ok("the site is not paused.")
    else:
        yield warn(
            f"the site is paused by {known.by} since {known.time or 'an unknown day'}: {known.reason}.",
            "'plasmid site resume' ends that.",
        )


def isolation(subject: Subject) -> Iterator[Finding]:
    """What a worker of this site is kept in on this machine, found by starting something in it."""
    wanted = subject.home.config().isolation
    found = probe()
    working = [level for level, problem in found.items() if problem is None and level != "none"]
    level = choose(wanted).level
    had = ", ".join(working) or "nothing else"
    yield ok(f"workers run in: {level} (site.yaml says {wanted}; {had} can be had).")
    if level == "none":
        yield warn(
            "a worker may read what this user may read, and reach the network.",
            "Leave 'isolation' out of site.yaml, so that the strongest level is taken.",
        )
    required = read_policy(subject.home.policy).require.isolation
    if not at_least(level, required):
        yield fail(
            f"the policy asks for {required} or stronger: nothing runs.",
            f"Have it installed, or say 'isolation: {required}' in site.yaml.",
        )
