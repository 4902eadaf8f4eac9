"""What a running node does when it cannot keep its books: it says so, and nothing leaves.

The disk is a real one that is full: a small tmpfs, which only root may mount.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.clock import now
from plasmid.gateway import node as node_module
from plasmid.gateway.node import Node
from plasmid.gateway.sentences import SENTENCES
from plasmid.owner.outbox import read_outbox
from plasmid.protocol.body import pack
from plasmid.protocol.messages import End, sign
from support.federation.in_memory import Federation
from support.federation.one_node import Echo, Outbox, admit, no_run, noted, set_up, until


class Site:
    """alpha's node in a run whose key epoch is sealed, and the other sites' gateways."""

    def __init__(self, federation: Federation, node: Node, outbox: Outbox, echo: Echo) -> None:
        self.federation, self.node, self.outbox, self.echo = federation, node, outbox, echo

    def tell(self, message: Any) -> None:
        """Have the coordinator say something."""
        self.node._take(sign(self.federation.coordinator, message))

    def round(self, number: int = 1, **changes: Any) -> None:
        """Have the coordinator begin a round."""
        self.tell(self.federation.manifest(number, **changes))

    def said_no(self, code: str) -> None:
        """Check that the node ended its run with *code*, in constant words, and that no vector left."""
        failed = self.outbox.wait_for("failed")[-1].payload
        assert (failed["code"], failed["sentence"]) == (code, SENTENCES[code])
        no_run(self.node)
        assert (self.outbox.uploads, self.outbox.of("contribution")) == ([], [])

    def again(self) -> None:
        """Have the run admitted once more, go through a new key epoch, and see a vector leave."""
        self.node._take(admit(self.federation))
        until(lambda: self.federation.run in self.node.gateway._runs)
        for site in ("beta", "gamma"):
            assert self.federation.admit(site).accepted
        set_up(self.federation, self.node, self.outbox, epoch=2)
        self.round(1, slot=0)
        self.outbox.wait_for("contribution")
        assert len(self.outbox.uploads) == 1
        self.node.gateway.audit.verify()


Make = Callable[[Path], Site]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    nodes: list[Node] = []

    def made(root: Path, **settings: Any) -> Site:
        federation, outbox, echo = Federation(root, **settings), Outbox(), Echo()
        outbox.state = pack("state", np.zeros(6, np.float32))
        monkeypatch.setattr(node_module.Credential, "connect", lambda *_, **__: outbox)
        node = Node(federation.home("alpha"), federation.keys("alpha"), launcher=echo)  # type: ignore[arg-type]
        nodes.append(node)
        federation.gateways["alpha"] = node.gateway
        for site in ("beta", "gamma"):
            assert federation.admit(site).accepted
        node._take(admit(federation))
        outbox.wait_for("admission")
        set_up(federation, node, outbox)
        return Site(federation, node, outbox, echo)

    yield made
    for node in nodes:
        for run in list(node._runs.values()):
            run.end("the test is over")
            run.join(10)


# -- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False)
    if done.returncode:
        pytest.skip("this host lets nobody mount a disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@contextmanager
def filled(disk: Path, site: Site) -> Iterator[None]:
    """Fill *disk* to its last byte, the log's last page included, and empty it again."""
    audit, page = site.node.gateway.audit, 4096
    while room := -audit.files.log.stat().st_size % page:
        before = audit.files.log.stat().st_size
        audit.write("notice", result="noted", pad="")
        entry = audit.files.log.stat().st_size - before
        audit.write("notice", result="noted", pad="x" * ((room - 2 * entry) % page))
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        _fill(file, page)
    yield
    ballast.unlink()


def _fill(file: RawIOBase, page: int) -> None:
    while True:
        file.write(b"x" * page)


def actions(site: Site) -> list[str]:
    return [entry["action"] for entry in site.node.gateway.audit.entries()]


def test_a_disk_that_fills_while_a_worker_computes_lets_no_vector_out(make: Make, small: Path) -> None:
    site = make(small)
    site.echo.hold.clear()
    site.round()
    until(lambda: site.echo.computed)
    with filled(small, site):
        site.echo.hold.set()
        site.said_no("storage.full")
        assert "released" not in actions(site)
    site.again()
    assert actions(site).count("released") == 1


def test_a_disk_that_is_full_before_a_round_has_nothing_computed(make: Make, small: Path) -> None:
    site = make(small)
    with filled(small, site):
        site.round()
        site.said_no("storage.full")
        assert site.echo.computed == []
        site.node._take(admit(site.federation))
        assert site.outbox.wait_for("failed", 2)[1].payload["code"] == "storage.full"
    site.again()


# -- the clock ---------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_ends_the_run_and_says_so(make: Make, tmp_path: Path) -> None:
    site = make(tmp_path)
    site.node.gateway.audit._clock = lambda: now() - timedelta(hours=2)
    site.round()
    site.said_no("site.clock")
    assert site.echo.computed == []
    (told,) = noted(site.federation, "clock")
    assert (told["rule"], told["result"]) == ("site.clock", "failed")
    shown = read_outbox(site.node.gateway.audit.entries())
    assert [(line.action, line.rule) for line in shown.refused] == [("clock", "site.clock")]
    assert shown.released == ()
    site.node.gateway.audit._clock = now
    site.again()


def test_it_says_so_while_a_worker_computes_too(make: Make, tmp_path: Path) -> None:
    site = make(tmp_path)
    site.echo.hold.clear()
    site.round()
    until(lambda: site.echo.computed)
    site.node.gateway.audit._clock = lambda: now() - timedelta(hours=2)
    site.echo.hold.set()
    site.said_no("site.clock")


# -- the log -----------------------------------------------------------------------------------------


def _edit(path: Path) -> None:
    """Change one digit of an entry in the middle, in place."""
    text = path.read_bytes()
    assert text.count(b'"c":1') >= 1
    with path.open("r+b") as file:
        file.seek(text.index(b'"c":1') + 4)
        file.write(b"2")


def _cut(path: Path) -> None:
    os.truncate(path, path.read_bytes()[:-1].rindex(b"\n") + 1)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


@pytest.mark.parametrize("damage", [_cut, _replace])
def test_a_log_that_is_cut_or_replaced_ends_the_run(make: Make, tmp_path: Path, damage: Any) -> None:
    site = make(tmp_path)
    site.echo.hold.clear()
    site.round()
    until(lambda: site.echo.computed)
    damage(site.federation.home("alpha").audit / "log.jsonl")
    site.echo.hold.set()
    site.said_no("storage.log_damaged")


def test_a_log_that_was_edited_lets_no_further_run_begin_and_none_go_on(make: Make, tmp_path: Path) -> None:
    """All of it is hashed before a run is admitted, also for one that goes on meanwhile."""
    site = make(tmp_path)
    log = site.federation.home("alpha").audit / "log.jsonl"
    sound = log.read_bytes()
    _edit(log)
    first = site.federation.run
    other = site.federation.new_run("another")
    site.node._take(admit(site.federation))
    failed = site.outbox.wait_for("failed")[-1].payload
    assert (failed["run"], failed["code"]) == (other, "storage.log_damaged")
    site.federation.new_run("run-1")
    assert site.federation.run == first
    site.round()
    site.outbox.wait_for("failed", 2)
    site.said_no("storage.log_damaged")
    assert log.read_bytes()[len(sound) :] == b"", "nothing is added to a damaged log"
    log.write_bytes(sound)
    site.again()
    site.tell(End(run=first, state="SUCCEEDED"))
    no_run(site.node)
