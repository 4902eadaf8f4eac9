"""Row 23. Attack: log edited, truncated, two roots served, disk full.

Must hold: verify fails; cosignature mismatch; fail closed. Row 40 in part: an edit by the owner is visible
to others. *claim*: a site and all its peers together can rewrite its log.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import ProtocolError, StorageError
from plasmid.core.merkle import Frontier
from plasmid.log.audit_log import AuditLog
from plasmid.log.entries import parse_entries, split
from plasmid.log.export import Known, Named, export
from plasmid.log.verify import compare, parse_export
from plasmid.protocol.messages import Manifest
from support.federation.attacks import FOUR, never, refusal
from support.federation.cosigners import Cosigners
from support.federation.in_memory import Federation, full_disk

VECTOR = np.zeros(6, np.float32)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """A federation of which one round is done."""
    made = Federation(tmp_path, sites=FOUR)
    made.set_up()
    made.open_sum(list(made.answers(made.manifest(1)).values()), made.manifest(1))
    return made


def path_of(federation: Federation) -> Path:
    return federation.home("alpha").audit / "log.jsonl"


def hide_the_size(path: Path) -> None:
    """The body that left was larger than the log says."""
    text = path.read_bytes()
    size = json.loads(next(line for line in text.splitlines() if b'"released"' in line))["facts"]["bytes"]
    path.write_bytes(text.replace(b'"bytes":%d' % size, b'"bytes":%d' % (size - 1)))
    assert path.read_bytes() != text


def hide_a_release(path: Path) -> None:
    """An entry is taken out, and the ones after it are counted anew."""
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    kept = [entry for entry in entries if entry["action"] != "released"]
    assert len(kept) < len(entries)
    lines = [
        json.dumps(entry | {"seq": seq}, separators=(",", ":"), sort_keys=True)
        for seq, entry in enumerate(kept, 1)
    ]
    path.write_text("\n".join(lines) + "\n")


def truncate(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    released = max(number for number, line in enumerate(lines) if b'"released"' in line)
    path.write_bytes(b"".join(lines[:released]))


EDITS = [hide_the_size, hide_a_release, truncate]


@pytest.mark.promise("log-shows")
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_log_starts_no_site(federation: Federation, edit: Callable[[Path], None]) -> None:
    path = path_of(federation)
    federation.gateways["alpha"].audit.verify()
    edit(path)
    # control: a log of lines alone would be believed, for each of them is in order
    entries = list(parse_entries(split(path.read_bytes())[0]))
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    gateway = federation.restart("alpha")
    with refusal("storage.log_damaged"):
        gateway.audit.verify()  # the node's first step


@pytest.mark.promise("log-shows")
@pytest.mark.parametrize("edit", [hide_a_release, truncate])
def test_nothing_leaves_once_it_shrank(federation: Federation, edit: Callable[[Path], None]) -> None:
    gateway = federation.gateways["alpha"]
    edit(path_of(federation))
    with refusal("storage.log_damaged"):
        gateway.contribute(federation.manifest(2), never)
    federation.new_run("run-2")
    with refusal("storage.log_damaged"):
        federation.admit("alpha")


def edit_in_place(path: Path) -> None:
    """One byte of an earlier entry, in the same file, with the times of before."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(b'"bytes":') + len(b'"bytes":'))
        file.write(b"9")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino, before.st_size, before.st_mtime_ns
    )  # fmt: skip


@pytest.mark.promise("log-shows")
@pytest.mark.parametrize("edit", [hide_the_size, edit_in_place])
@pytest.mark.parametrize("signed", [True, False])
def test_an_edit_under_a_running_site_lets_no_vector_leave(
    federation: Federation, edit: Callable[[Path], None], *, signed: bool
) -> None:
    """Also before the first checkpoint after it, and whatever the process asks first."""
    gateway = federation.gateways["alpha"]
    manifest = federation.manifest(2)
    if signed:
        gateway.audit.write("notice")
        gateway.audit.checkpoint()
    edit(path_of(federation))
    for _ in range(2):
        with refusal("storage.log_damaged"):
            gateway.contribute(manifest, never)
    with refusal("storage.log_damaged"):
        gateway.begin_epoch(federation.epoch(epoch=2))


def test_an_edit_while_the_vector_is_computed_lets_it_not_leave(federation: Federation) -> None:
    gateway, path = federation.gateways["alpha"], path_of(federation)

    def compute(_: Manifest) -> np.ndarray:
        edit_in_place(path)
        return VECTOR

    with refusal("storage.log_damaged"):
        gateway.contribute(federation.manifest(2), compute)
    assert json.loads(path.read_bytes().splitlines()[-1])["action"] == "manifest"  # nothing was released


def test_the_log_of_several_processes_is_no_edit(federation: Federation) -> None:
    """Control: what a verb appends, with or without the key, lets the next vector leave."""
    home, gateway = federation.home("alpha"), federation.gateways["alpha"]
    AuditLog(home.audit).write("paused", actor="owner")
    assert gateway.contribute(federation.manifest(2), lambda _: VECTOR).body


def test_an_edit_and_a_new_tree_need_the_site_s_key(federation: Federation) -> None:
    """Whoever can write the folder can make a tree that fits; only its signature is missing."""
    path = path_of(federation)
    hide_the_size(path)
    files = federation.gateways["alpha"].audit.files
    values = json.loads(files.checkpoint.read_text())
    tree = Frontier()
    for leaf in files.leaves():
        tree.append(leaf)
    origin, _, _, *signature = values["note"].split("\n")
    head = [origin, str(tree.size), base64.b64encode(tree.root()).decode()]
    values |= {
        "note": "\n".join([*head, *signature]),
        "peaks": [peak.hex() for peak in tree.peaks],
        "offset": path.stat().st_size,
    }
    files.checkpoint.write_text(json.dumps(values))
    with pytest.raises(StorageError, match="is not signed by this site") as caught:
        federation.restart("alpha").audit.verify()
    assert caught.value.code == "storage.log_damaged"


@pytest.mark.promise("logged-first")
def test_a_full_disk_lets_nothing_out(federation: Federation) -> None:
    gateway, uploaded = federation.gateways["alpha"], []

    def attempt(manifest: Manifest) -> None:
        uploaded.append(gateway.contribute(manifest, lambda _: VECTOR))

    attempt(federation.manifest(2))  # control: with room on the disk it leaves
    with full_disk(gateway), refusal("storage.full"):
        attempt(federation.manifest(2, slot=2))
    assert len(uploaded) == 1
    gateway.audit.verify()


def test_a_log_on_a_file_system_that_fails_lets_nothing_out(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    gateway = federation.gateways["alpha"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(StorageError):
            gateway.contribute(federation.manifest(2), never)


# -- two histories -----------------------------------------------------------------------------------


@pytest.fixture
def sites(tmp_path: Path) -> Cosigners:
    made = Cosigners(tmp_path / "sites")
    for number in range(3):
        made.logs["alpha"].write("released", number=number)
    return made


def other_history(sites: Cosigners) -> None:
    """Have alpha's owner write another history, with alpha's own key, and forget the first."""
    shutil.rmtree(sites.home("alpha").audit)
    sites.restart("alpha")
    for number in range(3):
        sites.logs["alpha"].write("released", number=number + 100)


def exported(sites: Cosigners, name: str) -> Any:
    known = {
        one: Known(name=one, organisation=one, key=identity.public)
        for one, identity in sites.identities.items()
    }
    named = Named(site=known[name], peers=[one for peer, one in known.items() if peer != name])
    return parse_export(export(sites.logs[name].files, named), f"{name}'s export", {})


@pytest.mark.promise("log-shows")
def test_the_owner_s_own_edit_is_sound_at_home_and_seen_by_every_peer(sites: Cosigners) -> None:
    sites.exchange("alpha")
    other_history(sites)
    sites.logs["alpha"].verify()  # control: signed with alpha's own key, nothing at home is wrong
    with refusal("storage.log_rolled_back"):  # beta answers with what alpha had signed
        sites.exchange("alpha")
    assert sites.problems == ["the audit log of alpha: two roots of 3 entries. It was not cosigned."]
    assert [entry["result"] for entry in sites.logs["beta"].entries()] == ["ok", "failed"]
    with refusal("storage.log_rolled_back"):
        sites.logs["alpha"].write("released")


@pytest.mark.detected_later("two histories for two peers show when their exports are compared")
def test_two_roots_that_are_served_to_two_peers_are_seen_side_by_side(sites: Cosigners) -> None:
    """A split view: beta sees one history, gamma another. Neither can know; their exports together do."""
    offers = {offer.receiver: offer for offer in sites.parts["alpha"].offers()}
    sites.one("alpha", offers["beta"])
    other_history(sites)
    offers = {offer.receiver: offer for offer in sites.parts["alpha"].offers()}
    sites.one("alpha", offers["gamma"])
    assert sites.problems == []  # control: each alone is content
    beta, gamma = exported(sites, "beta"), exported(sites, "gamma")
    for alone in (beta, gamma):
        compare([alone])
    with pytest.raises(ProtocolError, match="has two histories of 3 entries") as caught:
        compare([beta, gamma])
    assert caught.value.code == "protocol.log_split"
    compare([gamma, exported(sites, "alpha")])
    with pytest.raises(ProtocolError, match="two histories"):
        compare([beta, exported(sites, "alpha")])


@pytest.mark.limit("a log that no one has cosigned can be rewritten by its owner")
def test_a_log_without_peers_can_be_rewritten_by_its_owner(sites: Cosigners) -> None:
    """The claim: where nobody has cosigned, the owner's key is enough. The export says so."""
    before = sites.logs["alpha"].entries()
    other_history(sites)
    found = exported(sites, "alpha")
    assert sites.logs["alpha"].entries() != before
    assert found.cosigned == []
    assert AuditLog(sites.home("alpha").audit).verify() is not None
