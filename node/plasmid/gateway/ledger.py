"""The site's privacy ledger on disk: append-only, chained, locked, durable before anything happens.

The arithmetic is in :mod:`plasmid.dp.budgets`, the form of a line in :mod:`plasmid.gateway.ledger_chain`.

Rules
-----
1. Every change takes the lock of ``ledger.jsonl.lock`` (between processes and threads), reads what others
   wrote, checks, appends, and returns after fsync: write ahead. A crash in between leaves too much
   charged, never too little.
2. A damaged ledger refuses every use. Damage is never repaired by forgetting: :meth:`Ledger.carry_forward`
   keeps the damaged file and starts a ledger that counts every budget as wholly spent.
3. A chain cannot show that its end was cut off: peers hold the newest charge that they saw, counter and
   digest in this site's own signed words (:mod:`plasmid.gateway.members.heads`), and
   :meth:`Ledger.check_seen` refuses a ledger that does not contain it, however far it has grown since.
   *Claim*: peers who collude in a rollback are not detected.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plasmid.core.errors import StorageError
from plasmid.core.files import locked, storage_error, sync_folder
from plasmid.dp.budgets import Accounts, Budget, Population, RunAccount
from plasmid.gateway import ledger_chain as chain
from plasmid.log.audit_log import AuditLog

__all__ = ["Budget", "Ledger"]


@dataclass
class _Read:
    """A verified reading of the file, and the stat of the file that it holds for."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    accounts: Accounts = field(default_factory=Accounts)
    stat: tuple[int, ...] = ()

    @property
    def head(self) -> chain.Head:
        return (
            (self.entries[-1]["counter"], self.entries[-1]["digest"]) if self.entries else (0, chain.GENESIS)
        )


class Ledger:
    """The ledger of one site. Safe to use from several threads and processes.

    Parameters
    ----------
    path
        The file; it need not exist yet, its folder must.
    audit, actor
        Where every entry is logged before it is written, and as whose: the log may say too much of a charge,
        never too little. None: nowhere.

    Every method may raise StorageError: ``storage.ledger_damaged``, or the disk's own problems.
    """

    def __init__(self, path: Path, audit: AuditLog | None = None, *, actor: str = "gateway") -> None:
        self._path, self._audit, self._actor = path, audit, actor
        self._last = _Read()

    def reserve(
        self,
        *,
        run: str,
        digest: str,
        project: str,
        population: str,
        unit: str,
        epsilon: float,
        delta: float,
        attempts: int,
        budget: Budget,
    ) -> None:
        """Reserve the whole planned cost of *run*, spare attempts included. Idempotent for the same figures.

        Raises
        ------
        PolicyRefused
            ``policy.budget``: not enough is left (the message says what is), or other figures are known.
            ``policy.budget_unit``: the population's unit is another one.
        """
        wanted = RunAccount(digest, population, unit, float(epsilon), float(delta), attempts, project)
        self._change(lambda accounts: accounts.reserve(run, wanted, budget))

    def check(
        self, *, run: str | None, population: str, unit: str, epsilon: float, delta: float, budget: Budget
    ) -> None:
        """Raise what :meth:`reserve` raises for a run; one with an account must fit with the others'.

        So a budget that was lowered or withdrawn stops the runs under way. Nothing is written.
        """
        wanted = RunAccount("", population, unit, float(epsilon), float(delta), 0)
        with self._locked():
            self._read().accounts.check(wanted, budget, known=run)

    def spend(self, run: str) -> None:
        """Turn the reservation of *run* into spending, before its first compute. Idempotent; never undone.

        Raises PolicyRefused (``policy.budget``) where nothing is reserved.
        """
        self._change(lambda accounts: accounts.spend(run))

    def release(self, run: str) -> None:
        """Give back the reservation of *run* if it was never spent; otherwise do nothing."""
        self._change(lambda accounts: accounts.release(run))

    def charge_attempt(self, run: str, slot: tuple[int, int]) -> None:
        """Count one more attempt of *run*, in *slot* (epoch, slot), before noise is drawn. Every call counts.

        Raises
        ------
        PolicyRefused
            ``policy.attempts``: all reserved attempts are charged. ``policy.budget``: nothing is reserved.
        """
        self._change(lambda accounts: accounts.attempt(run, slot))

    def carry_forward(self, budgets: Mapping[str, Budget]) -> Path | None:
        """Count each of *budgets* as wholly spent, and every population that is not among them too.

        A damaged ledger is kept under another name, which is returned, and a new one begins with this
        entry; to a sound one (a rolled-back one, say) the entry is appended. Its counter is the time in
        seconds since 1970, above whatever a peer can have seen.
        """
        with self._locked():
            kept = None
            try:
                read = self._read()
            except StorageError as error:
                if error.code != "storage.ledger_damaged":
                    raise
                kept = self._retire()
                read = _Read()
            self._append(read, read.accounts.carry(budgets), least=int(time.time()))
            return kept

    def head(self) -> tuple[int, str]:
        """Return the counter and the digest of the newest entry; (0, zeros) before the first."""
        with self._locked():
            return self._read().head

    def charged(self) -> tuple[int, str]:
        """Return counter and digest of the newest entry that charged something, (0, zeros) if none did."""
        with self._locked():
            for entry in reversed(self._read().entries):
                if entry["event"] in _CHARGES:
                    return entry["counter"], entry["digest"]
            return 0, chain.GENESIS

    def check_seen(self, teller: str, counter: int, digest: str) -> None:
        """Refuse to go on if the charge (*counter*, *digest*), which this site signed, is not here.

        Raises StorageError (``storage.ledger_rolled_back``). A ledger that was carried forward later has
        charged at least as much: its counter leapt beyond. *teller* holds the signed word.
        """
        with self._locked():
            entries = self._read().entries
        carried = max((entry["counter"] for entry in entries if entry["event"] == "carry"), default=0)
        if counter > carried and all((one["counter"], one["digest"]) != (counter, digest) for one in entries):
            own = entries[-1]["counter"] if entries else 0
            raise StorageError(
                "storage.ledger_rolled_back",
                f"the privacy ledger {self._path} ends with entry {own} and does not contain the charge of "
                f"entry {counter} that this site signed and {teller} has kept: it was rolled back, by a "
                "restored disk perhaps. Nothing runs.",
                _RECOVER,
            )

    def summary(self) -> dict[str, Population]:
        """Return what every population has spent and reserved."""
        with self._locked():
            return self._read().accounts.populations()

    def spent(self, run: str) -> tuple[str | None, float | None]:
        """Return the population that *run* draws on and its epsilon spent, Nones without an account."""
        with self._locked():
            accounts = self._read().accounts
            account = accounts.runs.get(run)
            if account is None:
                return None, None
            return account.population, float(accounts.population(account.population).spent_epsilon)

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries, oldest first."""
        with self._locked():
            return list(self._read().entries)

    def _change(self, make: Callable[[Accounts], dict[str, Any] | None]) -> None:
        with self._locked():
            read = self._read()
            event = make(read.accounts)
            if event is not None:
                self._append(read, event)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self._path):
            try:
                yield
            except OSError as error:
                self._last = _Read()  # what reached the disk is not known: read it again
                raise storage_error(error, self._path) from error

    def _read(self) -> _Read:
        if not self._path.exists():
            return _Read()
        if self._last.stat != _stat(self._path):
            self._last = _Read()
            try:
                read = self._parse()
            except chain.DamagedError as damage:
                raise StorageError(
                    "storage.ledger_damaged",
                    f"the privacy ledger {self._path} is damaged: {damage}. Nothing runs.",
                    _RECOVER,
                ) from None
            read.stat = _stat(self._path)
            self._last = read
        return self._last

    def _parse(self) -> _Read:
        with self._path.open("r+b") as file:
            content = file.read()
            lines, whole = chain.split(content)
            read = _Read()
            for line in lines:
                entry = chain.verify(line, read.head)
                try:
                    read.accounts.apply(entry)
                except (ValueError, KeyError, TypeError, AttributeError):
                    what = f"entry {entry['counter']} is none of this release"
                    raise chain.DamagedError(what) from None
                read.entries.append(entry)
            if whole != content:
                file.seek(0)
                file.write(whole)
                file.truncate(len(whole))
                file.flush()
                os.fsync(file.fileno())
        return read

    def _append(self, read: _Read, event: dict[str, Any], *, least: int = 1) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = chain.follow(read.head, event, time=now, least=least)
        self._log(entry)
        new = not self._path.exists()
        self._last = _Read()  # until the entry is durable
        with self._path.open("ab") as file:
            file.write(chain.line(entry))
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self._path.parent)
        read.accounts.apply(entry)
        read.entries.append(entry)
        read.stat = _stat(self._path)
        self._last = read

    def _log(self, entry: dict[str, Any]) -> None:
        if self._audit is None:
            return
        chained = ("counter", "previous", "time", "event", "digest", "run")
        facts = {name: value for name, value in entry.items() if name not in chained}
        facts |= {"object": entry["digest"], "run": entry.get("run"), "counter": entry["counter"]}
        self._audit.write(ACTIONS[entry["event"]], actor=self._actor, **facts)

    def _retire(self) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = self._path.with_name(f"{self._path.name}.damaged-{stamp}")
        self._path.rename(kept)
        sync_folder(self._path.parent)
        self._last = _Read()
        return kept


ACTIONS = {
    "reserve": "epsilon.reserved",
    "spend": "epsilon.spent",
    "attempt": "epsilon.attempt",
    "release": "epsilon.returned",
    "carry": "epsilon.carried",
}
"""The action in the log for each event of the ledger."""
_CHARGES = ("spend", "attempt", "carry")

_RECOVER = (
    "Restore the newest copy of it. Without one, 'plasmid privacy ledger --carry-forward' keeps the file and "
    "counts every budget in policy.yaml as wholly spent; only a larger budget then gives room."
)


def _stat(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
