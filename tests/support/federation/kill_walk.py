"""Kill a gateway at every step of answering a manifest, restart it, and see what a coordinator can get then.

    PYTHONPATH=tests python -m support.federation.kill_walk FOLDER
        [--unit ...] [--grain disk|calls] [--without DEFENCE] [--until WORDS]

Steps are found, not listed: a dry run counts every ``os.fsync``, ``os.replace``, ``os.rename`` and
``os.truncate``, every start of a computation, every mask, upload and post (grain ``disk``), or every call of
a function of ``plasmid`` (grain ``calls``). Then, for every step and each of its ways to die, a forked copy
of this process goes so far and is killed:

``before``, ``after``   SIGKILL; what was written is in the kernel's cache and survives
``lost``, ``torn``      the power fails before an fsync returns: of what was new, nothing or half is there

A second copy then restarts the site over what is on disk and plays a coordinator that tries to get a second
vector: the same manifest, the old key epoch begun anew, then a new epoch and an honest round. One JSON line
per death goes to stdout: the step and everything that was wrong, nothing if nothing was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from plasmid.core.errors import PlasmidError
from plasmid.dp.budgets import RunAccount
from plasmid.gateway import open_view as opening
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.replay import Marks
from plasmid.gateway.run import SiteRun
from plasmid.protocol.messages import Manifest, Signed
from plasmid.recipes.query import PingDocument
from plasmid.secagg.samples import body_root
from plasmid.secagg.site import SiteEpoch
from support.federation.attacks import FOUR, private
from support.federation.in_memory import Federation
from support.servers import warm

VICTIM = "alpha"
VECTORS = {"none": np.full(6, 0.5, np.float32), "record": np.array([0.5, 0.25, 1.0])}
WITHOUT = ("epochs", "charge", "log")
_DISK = ("fsync", "replace", "rename", "truncate")


class Notes:
    """What happened, kept where no death of the site reaches it: one JSON line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    def add(self, kind: str, **facts: Any) -> None:
        """Append one note."""
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps({"kind": kind, **facts}).encode() + b"\n")

    def read(self, kind: str) -> list[dict[str, Any]]:
        """Return the notes of *kind*."""
        notes = [json.loads(line) for line in self._path.read_bytes().splitlines()]
        return [note for note in notes if note["kind"] == kind]


class Steps:
    """Counts steps, and dies at one of them.

    ``die_at`` None counts only. A step has a name, and ``sync`` where it is an fsync.
    """

    def __init__(self, notes: Notes, home: Path, die_at: int | None = None, how: str = "") -> None:
        self._notes, self._die_at, self._how = notes, die_at, how
        self._count = -1
        self._synced = {path: path.stat().st_size for path in home.rglob("*") if path.is_file()}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return *function*, as a step before and after it."""

        def step(*arguments: Any, **named: Any) -> Any:
            self._count += 1
            mine = self._count
            file = _file(arguments[0]) if name == "fsync" else None
            if self._die_at is None:
                self._notes.add("step", name=name, sync=file is not None)
            elif self._die_at == mine and self._how != "after":
                self._lose(file)
                die()
            result = function(*arguments, **named)
            if self._die_at == mine:
                die()
            if file is not None:
                self._synced[file] = file.stat().st_size
            return result

        return step

    def call(self, frame: Any, event: str, _argument: Any) -> None:
        """Count a call of a function of ``plasmid``; a profile function."""
        if event != "call" or "/plasmid/" not in frame.f_code.co_filename:
            return
        self._count += 1
        if self._die_at is None:
            self._notes.add("step", name=frame.f_code.co_name, sync=False)
        elif self._die_at == self._count:
            die()

    def _lose(self, file: Path | None) -> None:
        if file is None or self._how == "before" or not file.exists():
            return
        old, new = self._synced.get(file, 0), file.stat().st_size
        os.truncate(file, old if self._how == "lost" else old + (new - old) // 2)


def _file(descriptor: Any) -> Path | None:
    path = Path(f"/proc/self/fd/{descriptor}").readlink()
    return path if path.is_file() else None


def restore(backup: Path, root: Path) -> None:
    """Make *root* what *backup* is. Files stay the same files: a log that was replaced is refused."""
    for path in root.rglob("*"):
        if path.is_file() and not (backup / path.relative_to(root)).exists():
            path.unlink()
    for path in backup.rglob("*"):
        if path.is_file():
            (root / path.relative_to(backup)).write_bytes(path.read_bytes())


def die() -> None:
    """Be killed, now."""
    os.kill(os.getpid(), signal.SIGKILL)


class Walk:
    """A federation whose key epoch is sealed, and the deaths of one of its sites."""

    def __init__(self, folder: Path, unit: str, grain: str, without: str) -> None:
        self.vector, self.grain = VECTORS[unit], grain
        self.root, self.backup = folder / "sites", folder / "backup"
        self.notes = Notes(folder / "coordinator.jsonl")
        document = PingDocument(length=6, rounds=2)
        self.federation = (
            private(self.root) if unit == "record" else Federation(self.root, document=document, sites=FOUR)
        )
        _switch_off(without)
        self._watch_masks()
        self.federation.set_up()
        self.manifest = self.federation.manifest()
        shutil.copytree(self.root, self.backup)

    def steps(self) -> list[dict[str, Any]]:
        """Return the steps of a whole answer."""
        self._forked(lambda: self._answer(None, ""))
        return self.notes.read("step")

    def death(self, number: int, how: str) -> list[str]:
        """Die at one step, restart; return what is wrong."""
        status = self._forked(lambda: self._answer(number, how))
        if os.WIFEXITED(status):
            return ["it was not killed"]
        status = self._forked(self._recover, keep=True)
        if os.WEXITSTATUS(status):
            return ["the restarted site could not go on", *self._vectors()]
        return [*self._vectors(), *self._kept()]

    # -- in forked copies --------------------------------------------------------------------------

    def _forked(self, work: Callable[[], None], *, keep: bool = False) -> int:
        if not keep:
            restore(self.backup, self.root)
            self.notes = Notes(self.notes._path)
        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - a copy of the process must not go on
                self.notes.add("error", text=repr(error))
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1]

    def _answer(self, die_at: int | None, how: str) -> None:
        steps = Steps(self.notes, self.federation.home(VICTIM).folder, die_at, how)
        gateway = self.federation.gateways[VICTIM]
        link = SimpleNamespace(upload=self._upload, post=self._post)
        compute = self._compute
        if self.grain == "disk":
            for name in _DISK:
                setattr(os, name, steps.around(name, getattr(os, name)))
            SiteEpoch.mask = steps.around("mask", SiteEpoch.mask)  # type: ignore[method-assign]
            link = SimpleNamespace(
                upload=steps.around("upload", self._upload), post=steps.around("post", self._post)
            )
            compute = steps.around("compute", self._compute)
        node = SimpleNamespace(gateway=gateway, link=link, note=lambda *_, **__: None)
        run: Any = SimpleNamespace(node=node, run_id=self.federation.run, _compute=compute)
        run._say = lambda signed: SiteRun._say(run, signed)
        if self.grain == "calls":
            sys.setprofile(steps.call)
        SiteRun._answer(run, self.manifest)

    def _compute(self, manifest: Manifest) -> np.ndarray:
        self.notes.add("computed", epoch=manifest.epoch, slot=manifest.slot)
        return self.vector

    def _upload(self, digest: str, body: bytes, *, run: str) -> None:
        assert body_root(body) == digest
        self.notes.add("sent", epoch=self.manifest.epoch, slot=self.manifest.slot, body=digest)

    def _post(self, signed: Signed) -> None:
        said = signed.payload
        self.notes.add("sent", epoch=said["epoch"], slot=said["slot"], body=said["body"])

    def _watch_masks(self) -> None:
        mask, notes = SiteEpoch.mask, self.notes

        def noted(epoch: SiteEpoch, words: Any, *, slot: int, **named: Any) -> Any:
            result = mask(epoch, words, slot=slot, **named)
            if epoch.site == VICTIM:
                notes.add("masked", epoch=epoch.epoch, slot=slot)
            return result

        SiteEpoch.mask = noted  # type: ignore[method-assign]

    def _recover(self) -> None:
        federation = self.federation
        gateway = federation.restart(VICTIM)
        entry = gateway.ledger._read().accounts.runs.get(federation.run)
        self.notes.add("restart", account=_account(entry), released=self._released())
        self._try(lambda: gateway.contribute(self.manifest, self._compute), "run.unknown")
        answer = federation.admit(VICTIM)
        assert answer.accepted, answer
        self._try(lambda: gateway.contribute(self.manifest, self._compute), "protocol.manifest")
        self._try(self._second_time, "protocol.epoch_used")
        federation.key_epoch(epoch=2)
        manifest = federation.manifest()
        vectors = dict.fromkeys(federation.sites, self.vector)
        answers = federation.answers(manifest, vectors)
        self.notes.add("sent", epoch=2, slot=0, body=answers[VICTIM].digest)
        federation.open_sum(list(answers.values()), manifest)
        entry = gateway.ledger._read().accounts.runs.get(federation.run)
        self.notes.add("end", account=_account(entry), released=self._released())

    def _second_time(self) -> None:
        """Begin the first epoch anew, and get the first slot's vector again."""
        self.federation.key_epoch(epoch=1)
        answer = self.federation.gateways[VICTIM].contribute(self.federation.manifest(), self._compute)
        self.notes.add("sent", epoch=1, slot=0, body=answer.digest)

    def _try(self, attack: Callable[[], Any], code: str) -> None:
        try:
            attack()
        except PlasmidError as error:
            if error.code == code:
                return
            self.notes.add("error", text=f"{error.code} instead of {code}")
        else:
            self.notes.add("error", text=f"no {code}")

    def _released(self) -> list[str]:
        return [line["object"] for line in self.federation.log(VICTIM) if line["action"] == "released"]

    # -- judgement ---------------------------------------------------------------------------------

    def _vectors(self) -> list[str]:
        """Return what broke, and every slot that has masked or sent more than one vector."""
        wrong = [note["text"] for note in self.notes.read("error")]
        bodies: dict[tuple[int, int], set[str]] = {}
        for sent in self.notes.read("sent"):
            bodies.setdefault((sent["epoch"], sent["slot"]), set()).add(sent["body"])
        wrong += [f"{len(found)} vectors of slot {slot}" for slot, found in bodies.items() if len(found) > 1]
        masks = Counter((note["epoch"], note["slot"]) for note in self.notes.read("masked"))
        wrong += [f"slot {slot} masked {count} times" for slot, count in masks.items() if count > 1]
        return wrong

    def _kept(self) -> list[str]:
        """Return what the log and the ledger lack of what was sent and computed."""
        (restart,), (end,) = self.notes.read("restart"), self.notes.read("end")
        unlogged = {sent["body"] for sent in self.notes.read("sent")} - set(end["released"])
        wrong = [f"{len(unlogged)} bodies left without a line"] if unlogged else []
        if restart["account"] is not None:
            begun = len(self.notes.read("computed"))
            state, charged = restart["account"]
            if begun and (state != "spent" or charged < begun):
                wrong.append(f"{begun} computed, {charged} charged, the budget is {state}")
            state, charged = end["account"]
            if state != "spent" or charged < begun + 1:
                wrong.append(f"{begun + 1} computed in the end, {charged} charged, the budget is {state}")
        return wrong


def _account(account: RunAccount | None) -> tuple[str, int] | None:
    return None if account is None else (account.state, account.charged)


def _switch_off(defence: str) -> None:
    """Take one defence away, for a positive control."""
    if defence == "epochs":
        Marks.claim_epoch = lambda *_, **__: None  # type: ignore[method-assign]
    elif defence == "charge":
        Ledger.charge_attempt = lambda *_, **__: None  # type: ignore[method-assign]
    elif defence == "log":
        from plasmid.log.audit_log import AuditLog

        write = AuditLog.write
        AuditLog.write = (  # type: ignore[method-assign,assignment]
            lambda log, action, **facts: None if action == "released" else write(log, action, **facts)
        )


def main() -> None:
    """Walk, and print one line per death."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unit", choices=("none", "record"), default="record")
    parser.add_argument("--grain", choices=("disk", "calls"), default="disk")
    parser.add_argument(
        "--without",
        choices=WITHOUT,
        default="",
    )
    parser.add_argument("--until", default="", help="end where this is wrong")
    asked = parser.parse_args()
    opening.subprocess = warm.READERS  # type: ignore[attr-defined]
    walk = Walk(asked.folder, asked.unit, asked.grain, asked.without)
    steps = walk.steps()
    for number, step in enumerate(steps):
        # after a step is before the next one, unless it reached the coordinator
        outside = asked.grain == "disk" and step["name"] in ("upload", "post")
        ways = ["before", *(["after"] if outside else []), *(["lost", "torn"] if step["sync"] else [])]
        for how in ways:
            line = {"number": number, "step": step["name"], "how": how, "wrong": walk.death(number, how)}
            print(json.dumps(line), flush=True)
            if asked.until and asked.until in " ".join(line["wrong"]):
                return


if __name__ == "__main__":
    main()
