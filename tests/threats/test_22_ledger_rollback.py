"""Row 22. Attack: ledger rollback (disk or VM restored), crash between spend and send, two processes.

Must hold: write ahead, fsync, lock; peers hold the newest signed head, the node refuses to run on an older
one; never under-counts. *claim*: colluding peers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import StorageError
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members.heads import Heads
from plasmid.gateway.policy.file import read_policy
from plasmid.protocol.messages import Manifest
from support.federation.attacks import FOUR, count_document, never, private, refusal
from support.federation.in_memory import Federation

VECTOR = np.array([0.5, 0.25, 1.0])


def a_run(federation: Federation, run: str, *, sites: tuple[str, ...] = FOUR) -> None:
    """Take *run* from admission to its sum."""
    federation.new_run(run)
    for site in sites:
        assert federation.admit(site).accepted
    federation.key_epoch(epoch=1, roster=list(sites))
    manifest = federation.manifest()
    answers = federation.answers(manifest, dict.fromkeys(sites, VECTOR))
    federation.open_sum(list(answers.values()), manifest)
    for site in sites:
        federation.gateways[site].forget(federation.run)


def spent(federation: Federation, site: str) -> float:
    return float(federation.gateways[site].ledger.summary()["default"].spent_epsilon)


def caught(federation: Federation, run: str, site: str) -> None:
    """Begin *run*; its set-up stops at *site*, before anything is computed."""
    federation.new_run(run)
    federation.admit_all()
    epoch, known = federation.epoch(), Heads(federation.home(site).heads)
    if known.newest(site, federation.identities[site].public):  # it was told before
        with pytest.raises(StorageError, match="a peer has kept: it was rolled back") as error:
            federation.gateways[site].begin_epoch(epoch)
    else:
        inbox = federation.bundles(federation.adverts())
        with pytest.raises(StorageError, match="it was rolled back") as error:
            federation.recoveries({site: inbox[site]})
    assert error.value.code == "storage.ledger_rolled_back"
    charged = federation.gateways[site].ledger.charged()
    with refusal("protocol.manifest"):
        federation.gateways[site].contribute(federation.manifest(), never)
    assert federation.gateways[site].ledger.charged() == charged
    for gateway in federation.gateways.values():
        gateway.forget(federation.run)


# -- rollback --------------------------------------------------------------------------------------


def test_peers_remember_what_a_site_has_charged(tmp_path: Path) -> None:
    federation = private(tmp_path)
    a_run(federation, "run-1")
    for site in FOUR:
        heads = Heads(federation.home(site).heads)
        for other in FOUR:
            text = heads.newest(other, federation.identities[other].public)
            assert bool(text) == (other != site)
            if text:
                said = json.loads(text)["payload"]
                ledger = federation.gateways[other].ledger
                assert (said["ledger_counter"], said["ledger_head"]) == ledger.charged() == ledger.head()
        assert [entry["event"] for entry in federation.gateways[site].ledger.entries()] == [
            "reserve", "spend", "attempt"
        ]  # fmt: skip


@pytest.mark.promise("budget-holds")
@pytest.mark.parametrize("what", ["the ledger", "the folder"])
@pytest.mark.parametrize("restarted", [True, False])
def test_a_restored_ledger_is_caught_at_the_next_epoch(tmp_path: Path, what: str, *, restarted: bool) -> None:
    federation = private(tmp_path)
    folder, snapshot = federation.home("beta").folder, tmp_path / "snapshot"
    a_run(federation, "run-1")
    shutil.copytree(folder, snapshot)
    a_run(federation, "run-2")
    assert spent(federation, "beta") == 2.0
    if what == "the folder":
        shutil.rmtree(folder)
        shutil.copytree(snapshot, folder)
    else:
        shutil.copy(snapshot / "ledger.jsonl", folder / "ledger.jsonl")
    if what == "the folder" and not restarted:
        with refusal("storage.log_damaged"):  # a process that runs on knows its own log, too
            federation.admit("beta")
        restarted = True
    if restarted:
        federation.restart("beta")
    # control: the older ledger is sound in itself, and would forget the second run
    assert spent(federation, "beta") == 1.0
    caught(federation, "run-3", "beta")
    for site in ("alpha", "delta", "gamma"):
        assert spent(federation, site) == 2.0


def test_a_ledger_that_was_removed_is_caught(tmp_path: Path) -> None:
    federation = private(tmp_path)
    a_run(federation, "run-1")
    federation.home("beta").ledger.unlink()
    caught(federation, "run-2", "beta")


def test_a_rolled_back_ledger_stays_caught_however_many_runs_it_refuses(tmp_path: Path) -> None:
    """Each of them leaves a reservation and its release behind, so the file grows past what peers saw."""
    federation = private(tmp_path)
    a_run(federation, "run-1")
    a_run(federation, "run-2")
    assert federation.gateways["beta"].ledger.head()[0] == 6
    federation.home("beta").ledger.unlink()
    for number in range(3, 7):
        caught(federation, f"run-{number}", "beta")
    assert federation.gateways["beta"].ledger.head()[0] == 8
    # many that are only admitted change nothing either
    gateway = federation.gateways["beta"]
    for number in range(7, 11):
        federation.new_run(f"run-{number}")
        assert gateway.answer(federation.admitting()).accepted
        gateway.forget(federation.run)
    caught(federation, "run-11", "beta")


def test_carried_forward_it_runs_again_and_has_nothing_left(tmp_path: Path) -> None:
    federation = private(tmp_path)
    a_run(federation, "run-1")
    federation.home("beta").ledger.unlink()
    caught(federation, "run-2", "beta")
    federation.gateways["beta"].ledger.carry_forward(read_policy(federation.home("beta").policy).budgets)
    federation.new_run("run-3")
    assert federation.admit("beta").code == "policy.budget"


def test_a_head_that_a_peer_heard_of_is_the_site_s_own_signed_word(tmp_path: Path) -> None:
    """The coordinator cannot lower what a peer will tell: the counter is inside the signature."""
    federation = private(tmp_path)
    federation.set_up()
    answers = federation.answers(federation.manifest(), dict.fromkeys(FOUR, VECTOR))
    said = [answer.contribution for answer in answers.values()]
    counter, head = federation.gateways["beta"].ledger.charged()
    assert (said[1].payload["ledger_counter"], said[1].payload["ledger_head"]) == (counter, head)
    lowered = said[1].model_copy(update={"payload": {**said[1].payload, "ledger_counter": 0}})
    with refusal("protocol.signature"):
        federation.gateways["alpha"].relay(federation.relay("contribution", [said[0], lowered, *said[2:]]))


# -- a crash ---------------------------------------------------------------------------------------


def crash_in_compute(federation: Federation, patch: pytest.MonkeyPatch) -> None:
    def crashes(_: Manifest) -> np.ndarray:
        raise OSError("the machine is gone")

    with pytest.raises(OSError, match="gone"):
        federation.gateways["beta"].contribute(federation.manifest(), crashes)


def crash_before_the_mask(federation: Federation, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("plasmid.gateway.output.skellam", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        federation.gateways["beta"].contribute(federation.manifest(), lambda _: VECTOR)


def crash_before_the_send(federation: Federation, patch: pytest.MonkeyPatch) -> None:
    federation.gateways["beta"].contribute(federation.manifest(), lambda _: VECTOR)  # and it goes nowhere


def bad_vector(federation: Federation, patch: pytest.MonkeyPatch) -> None:
    with refusal("protocol.vector"):
        federation.gateways["beta"].contribute(federation.manifest(), lambda _: np.full(3, np.nan))


@pytest.mark.promise("budget-holds")
@pytest.mark.parametrize(
    "crash", [crash_in_compute, crash_before_the_mask, crash_before_the_send, bad_vector]
)
def test_a_crash_between_spend_and_send_leaves_it_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: Callable[[Federation, pytest.MonkeyPatch], None]
) -> None:
    federation = private(tmp_path)
    federation.set_up()
    with monkeypatch.context() as patch:
        crash(federation, patch)
    gateway = federation.restart("beta")
    assert spent(federation, "beta") == 1.0
    gateway.ledger.release(federation.run)
    gateway.forget(federation.run)
    assert spent(federation, "beta") == 1.0
    # the attempt is charged; what is left of those that were reserved can be used
    assert federation.admit("beta").accepted
    assert spent(federation, "beta") == 1.0
    federation.key_epoch(epoch=2)
    for slot in (0, 1):
        gateway.contribute(federation.manifest(slot=slot), lambda _: VECTOR)
    with refusal("policy.attempts"):
        gateway.contribute(federation.manifest(slot=2), never)


@pytest.mark.promise("charged-first")
def test_nothing_is_computed_before_the_charge_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = private(tmp_path)
    federation.set_up()
    home, manifest = federation.home("beta"), federation.manifest()
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def compute(_: Manifest) -> np.ndarray:
        events = [json.loads(line)["event"] for line in home.ledger.read_text().splitlines()]
        assert events == ["reserve", "spend", "attempt"]
        assert synced.count("ledger.jsonl") == 2
        return VECTOR

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noted)
        assert federation.gateways["beta"].contribute(manifest, compute).body

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with refusal("storage.full"):
            federation.gateways["beta"].contribute(federation.manifest(slot=1), never)


def test_a_damaged_ledger_computes_nothing(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    path = federation.home("beta").ledger
    path.write_bytes(path.read_bytes().replace(b'"epsilon":1', b'"epsilon":0'))
    with refusal("storage.ledger_damaged"):
        federation.gateways["beta"].contribute(federation.manifest(), never)
    federation.new_run("run-2")
    assert federation.admit("beta").code == "storage.ledger_damaged"


# -- two processes ---------------------------------------------------------------------------------


def _admit_many(federation: Federation, name: str, start: Any, admitted: Any) -> None:
    gateway = Gateway(federation.home("beta"), federation.keys("beta"), source=federation)
    start.wait()
    for number in range(6):
        run = federation.new_run(f"{name}-{number}")
        if gateway.answer(federation.admitting()).accepted:
            admitted.put(run)


@pytest.mark.promise("budget-holds")
def test_two_processes_of_a_site_reserve_no_more_than_the_budget(tmp_path: Path) -> None:
    """Two nodes over one folder: 8 of the 12 runs that they are asked for fit in epsilon 8."""
    federation = private(tmp_path, document=count_document(epsilon=1.0, delta=1e-7))
    context = multiprocessing.get_context("fork")
    start, admitted = context.Event(), context.SimpleQueue()
    processes = [
        context.Process(target=_admit_many, args=(federation, name, start, admitted)) for name in ("a", "b")
    ]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    runs = []
    while not admitted.empty():
        runs.append(admitted.get())
    assert len(runs) == len(set(runs)) == 8
    sums = Ledger(federation.home("beta").ledger).summary()["default"]
    assert (float(sums.reserved_epsilon), float(sums.spent_epsilon)) == (8.0, 0.0)


def test_two_processes_that_answer_for_one_run_are_both_charged(tmp_path: Path) -> None:
    """A second node with the same folder: each attempt of either counts."""
    federation = private(tmp_path)
    federation.set_up()
    federation.gateways["beta"].contribute(federation.manifest(), lambda _: VECTOR)
    first = federation.gateways["beta"]
    second = federation.restart("beta")
    assert federation.admit("beta").accepted
    federation.key_epoch(epoch=2)
    second.contribute(federation.manifest(slot=0), lambda _: VECTOR)
    charged = [entry["slot"] for entry in first.ledger.entries() if entry["event"] == "attempt"]
    assert charged == [[1, 0], [2, 0]]
    first.contribute(
        federation.manifest(epoch=1, slot=1, rho=first.run(federation.run).epoch.rho), lambda _: VECTOR
    )
    with refusal("policy.attempts"):
        second.contribute(federation.manifest(slot=1), never)
