"""Attacks on what a site keeps: keys, ledger, log, clock."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta

from plasmid.core.clock import now
from plasmid.gateway.keys.keystore import DRAWN, EncryptedFile
from plasmid.log.audit_log import AuditLog
from plasmid.owner.red_team.attack import DidNotHoldError, accepted, attacks, refuses, works
from plasmid.owner.red_team.scratch import Scratch, counted

_RIGHT, _WRONG = "correct horse battery staple", "correct horse battery stable"


def edited_log(scratch: Scratch) -> None:
    """One digit of one old entry of the log is changed, by somebody who may write the file."""
    accepted(scratch.target.answer(scratch.admit()))
    log = AuditLog(scratch.home().audit, scratch.target.identity)
    log.checkpoint()
    works(log.verify() is not None, "an honest log does not verify")
    path = log.files.log
    text = path.read_bytes()
    old = b'"accepted"'
    works(old in text, "the log has no entry to change")
    path.write_bytes(text.replace(old, b'"refused!"', 1))
    refuses("storage.log_damaged", log.verify)


def cut_log(scratch: Scratch) -> None:
    """The newest entries of the log are cut off, at the end of a line."""
    accepted(scratch.target.answer(scratch.admit()))
    log = AuditLog(scratch.home().audit, scratch.target.identity)
    log.checkpoint()
    works(log.verify() is not None, "an honest log does not verify")
    lines = log.files.log.read_bytes().splitlines(keepends=True)
    log.files.log.write_bytes(b"".join(lines[:-1]))
    refuses("storage.log_damaged", log.verify)
    refuses("storage.log_damaged", lambda: scratch.gateway().audit.write("started"))


def clock_set_back(scratch: Scratch) -> None:
    """The clock is set back an hour, so that what has expired holds again."""
    accepted(scratch.target.answer(scratch.admit()))

    def earlier() -> datetime:
        return now() - timedelta(hours=1)

    gateway = scratch.gateway(clock=earlier)
    refuses("site.clock", lambda: gateway.answer(scratch.admit()))


def edited_ledger(scratch: Scratch) -> None:
    """A smaller epsilon is written into the ledger, so that more seems to be left."""
    accepted(scratch.target.answer(scratch.admit(scratch.make_request(counted(0.6)))))
    ledger = scratch.target.ledger
    works(len(ledger.entries()) == 1, "the reservation is not in the ledger")
    path = scratch.home().ledger
    text = path.read_bytes()
    works(b"0.6" in text, "the ledger does not say 0.6")
    path.write_bytes(text.replace(b"0.6", b"0.1", 1))
    refuses("storage.ledger_damaged", ledger.entries)


def ledger_rolled_back(scratch: Scratch) -> None:
    """An older copy of the ledger is put back and grows again; a peer remembers a charge that it lacks."""
    request = scratch.make_request(counted(0.6))
    accepted(scratch.target.answer(scratch.admit(request)))
    path, ledger = scratch.home().ledger, scratch.target.ledger
    old = path.with_suffix(".old")
    shutil.copy(path, old)
    admitted = scratch.admit(request).run
    ledger.spend(admitted)
    counter, digest = ledger.charged()
    ledger.check_seen("made-up-1", counter, digest)
    old.replace(path)
    restored = scratch.gateway().ledger
    restored.spend(admitted)
    restored.charge_attempt(admitted, (1, 0))
    works(restored.charged()[0] > counter, "the ledger has not grown")
    refuses("storage.ledger_rolled_back", lambda: restored.check_seen("made-up-1", counter, digest))


def wrong_passphrase(scratch: Scratch) -> None:
    """The file of keys is opened with a passphrase that is one letter off, and read as it lies there."""
    path = scratch.folder / "keys.json"
    keys = EncryptedFile.create(path, scratch.name, lambda: _RIGHT, cost=DRAWN)
    identity = keys.identity()
    works(identity.public == keys.public, "the right passphrase does not open the keys")
    refuses("keys.passphrase", EncryptedFile(path, lambda: _WRONG).identity)
    text = path.read_bytes()
    if _RIGHT.encode() in text or b"PRIVATE KEY" in text:
        raise DidNotHoldError("the file holds the key or the passphrase in the clear")
    path.write_bytes(text.replace(scratch.name.encode(), scratch.name[::-1].encode() + b"x", 1))
    refuses("keys.passphrase", EncryptedFile(path, lambda: _RIGHT).identity)


ATTACKS = attacks(
    (23, edited_log),
    (23, cut_log),
    (32, clock_set_back),
    (22, edited_ledger),
    (22, ledger_rolled_back),
    (28, wrong_passphrase),
)
