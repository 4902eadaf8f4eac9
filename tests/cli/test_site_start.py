"""`plasmid site start`: a real process that opens its keys, takes up certificates, and goes when revoked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy.orm import Session

from plasmid.core.clock import now
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.keys.keystore import EncryptedFile
from plasmid.gateway.members.peers import Peers, write_peers
from plasmid.gateway.status import site_status
from plasmid.link.tables import CertificateRow
from plasmid.log.audit_log import AuditLog
from support.federation.live_link import PASSPHRASE, LiveLink
from support.servers import warm

SECONDS = 60.0


def until(condition: Callable[[], Any], seconds: float = SECONDS) -> float:
    """Wait for *condition*; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


@dataclass
class Site:
    """An enrolled site whose passphrase is in a file, and its processes."""

    live: LiveLink
    home: SiteHome
    passphrase: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def words(self, *arguments: str) -> list[str]:
        return ["site", *arguments, "--home", str(self.home.folder), "--format", "json"]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return an environment without Plasmid's variables but for *more*."""
        return {name: value for name, value in os.environ.items() if not name.startswith("PLASMID")} | {
            **(more or {})
        }

    def spawn(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command with no passphrase but the one that *arguments* name."""
        process = subprocess.Popen(
            [sys.executable, "-m", "plasmid.cli.main", *self.words(*arguments)],
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.processes.append(process)
        return process

    def start(self, *how: str, **options: Any) -> subprocess.Popen[str]:
        """Start the node and wait until the coordinator sees it."""
        process = self.spawn("start", "--until-stdin-closes", *how, **options)
        until(lambda: process.poll() is not None or self.live.run(self.live.server.online()) == ["alpha"])
        assert process.poll() is None, process.communicate()
        return process

    def run(self, *arguments: str, passphrase: bool = True, env: Mapping[str, str] | None = None) -> Any:
        """Return the JSON answer of a command that ends by itself; it starts warm."""
        how = ["--passphrase-file", str(self.passphrase)] if passphrase else []
        done = warm.run("plasmid.cli.main", self.words(*arguments, *how), env=self.environment(env))
        return json.loads(done.stdout.splitlines()[-1])

    def actions(self) -> list[str]:
        return [entry["action"] for entry in AuditLog(self.home.audit).entries()]


def ended(process: subprocess.Popen[str]) -> Any:
    """Wait for a command's end; return its JSON answer."""
    said, _ = process.communicate(timeout=SECONDS)
    return json.loads(said.splitlines()[-1])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with LiveLink(tmp_path) as live:
        credential, _ = live.member("alpha")
        home = SiteHome(credential.folder)
        home.write_config(SiteConfig(name="alpha", organisation="alpha-org"))
        write_peers(home.peers, Peers(coordinator=live.identity.public))
        passphrase = tmp_path / "words"
        passphrase.write_text(PASSPHRASE + "\n")
        passphrase.chmod(0o600)
        made = Site(live, home, passphrase)
        yield made
        for process in made.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def test_a_node_opens_its_keys_through_a_descriptor(site: Site) -> None:
    reader, writer = os.pipe()
    os.write(writer, PASSPHRASE.encode())
    os.close(writer)
    process = site.start("--passphrase-fd", str(reader), pass_fds=(reader,))
    os.close(reader)
    assert site_status(site.home)["up"] is True
    assert PASSPHRASE not in Path(f"/proc/{process.pid}/cmdline").read_text()
    assert PASSPHRASE not in Path(f"/proc/{process.pid}/environ").read_text()
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    assert next(line for line in limits if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
    again = site.run("start")
    assert again["error"]["code"] == "storage.in_use"
    answer = ended(process)  # its standard input closes
    assert (answer["status"], answer["data"]) == ("ok", {"site": "alpha"})
    assert site_status(site.home)["up"] is False


def test_a_node_does_not_start_without_its_passphrase(site: Site) -> None:
    def written(name: str, text: str, mode: int = 0o600) -> str:
        path = site.passphrase.with_name(name)
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    wrong, named = written("wrong", "not the passphrase"), "PLASMID_PASSPHRASE_FILE"
    started = {
        "wrong": site.run("start", "--passphrase-file", wrong, passphrase=False),
        "wrong, named in the environment": site.run("start", passphrase=False, env={named: wrong}),
        "readable by others": site.run(
            "start", "--passphrase-file", written("open", PASSPHRASE, 0o644), passphrase=False
        ),
        "empty": site.run("start", "--passphrase-file", written("empty", ""), passphrase=False),
        "none": ended(site.spawn("start")),
    }
    assert {what: answer["error"]["code"] for what, answer in started.items()} == {
        "wrong": "keys.passphrase",
        "wrong, named in the environment": "keys.passphrase",
        "readable by others": "keys.passphrase_file",
        "empty": "keys.passphrase_file",
        "none": "keys.no_passphrase",
    }
    assert site.live.run(site.live.server.online()) == []


def certificates(live: LiveLink) -> list[bool]:
    """Return whether each certificate of the site was used, the oldest first."""
    with Session(live.registry._engine) as session:
        rows = session.query(CertificateRow).order_by(CertificateRow.issued)
        return [row.used is not None for row in rows]


@pytest.mark.slow
def test_a_running_node_takes_up_a_certificate_that_a_verb_renewed(site: Site) -> None:
    process = site.start("--passphrase-file", str(site.passphrase))
    assert certificates(site.live) == [True]
    answer = site.run("rotate")
    assert answer["status"] == "ok", answer
    # it reloads within a quarter of a second, and shows the new one with its next connection
    until(lambda: certificates(site.live) == [True, True], 45.0)
    assert process.poll() is None
    assert site.actions().count("rotated") == 1
    assert site.live.run(site.live.server.online()) == ["alpha"]


def test_a_rekeyed_site_goes_on_and_starts_with_the_new_passphrase_only(site: Site) -> None:
    process = site.start("--passphrase-file", str(site.passphrase))
    new = site.passphrase.with_name("new")
    new.write_text("quite another passphrase")
    new.chmod(0o600)
    assert site.run("rekey", "--new-passphrase-file", str(new))["status"] == "ok"
    assert process.poll() is None
    assert ended(process)["status"] == "ok"
    assert site.run("start")["error"]["code"] == "keys.passphrase"
    assert ended(site.start("--passphrase-file", str(new)))["status"] == "ok"


def test_a_revoked_node_ends_at_once_and_says_so(site: Site) -> None:
    """Its open poll would have waited for 20 s."""
    process = site.start("--passphrase-file", str(site.passphrase))
    polls = site.live.server._switchboard._polls["alpha"]
    until(lambda: polls.begun > polls.anew)  # the first is answered at once, the next one stays open
    site.live.registry.revoke("alpha", reason="its disk was stolen", by=site.live.identity)
    assert until(lambda: process.poll() is not None) < 6.0
    assert ended(process)["error"]["code"] == "link.revoked"
    again = site.run("start")
    assert again["error"]["code"] == "link.not_enrolled", "nor does it come back"


def test_a_node_that_has_left_ends(site: Site) -> None:
    process = site.start("--passphrase-file", str(site.passphrase))
    assert site.run("leave", "--yes")["data"]["left"] == "alpha"
    assert until(lambda: process.poll() is not None) < 6.0
    assert ended(process)["error"]["code"] == "link.revoked"
    assert site.live.registry.sites() == []
    assert site.actions()[-1] == "left"


def listening(process: subprocess.Popen[str]) -> list[int]:
    """Return the TCP ports on which *process* or a descendant listens."""
    root = psutil.Process(process.pid)
    every = [root, *root.children(recursive=True)]
    found = [one for owner in every for one in owner.net_connections(kind="tcp")]
    return [one.laddr.port for one in found if one.status == psutil.CONN_LISTEN]


@pytest.mark.promise("no-port")
def test_a_node_opens_no_port(site: Site) -> None:
    """It has dialled out, and its coordinator sees it; nobody can dial it, nor a child of it."""
    process = site.start("--passphrase-file", str(site.passphrase))
    connected = psutil.Process(process.pid).net_connections(kind="tcp")
    assert httpx.URL(site.live.url).port in {one.raddr.port for one in connected if one.raddr}
    assert listening(process) == []
    code = "import socket\nwith socket.create_server(('127.0.0.1', 0)): print('up', flush=True), input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        assert len(listening(other)) == 1  # control
        other.communicate("\n")


def test_pause_reaches_a_running_node(site: Site) -> None:
    process = site.start("--passphrase-file", str(site.passphrase))
    answer = site.run("pause", "--reason", "an audit", "--by", "ann", passphrase=False)
    assert (answer["data"]["by"], answer["data"]["running"]) == ("ann", True)
    said = site.run("status", passphrase=False)["data"]
    assert (said["up"], said["paused"]["reason"]) == (True, "an audit")
    assert site.run("resume", "--by", "ann", passphrase=False)["data"]["was_paused"] is True
    assert process.poll() is None, "it stays, to say that it is paused"
    assert [action for action in site.actions() if action in ("paused", "resumed")] == ["paused", "resumed"]


def ahead(log: AuditLog) -> None:
    """Have a clock that was two hours ahead when the newest entry was written: now it is set back."""
    AuditLog(log.files.folder, clock=lambda: now() + timedelta(hours=2)).write("notice", result="noted")


def edited(log: AuditLog) -> None:
    """Change one digit of an old entry."""
    text = log.files.log.read_bytes()
    log.files.log.write_bytes(text.replace(b'"number":1', b'"number":7', 1))


def cut(log: AuditLog) -> None:
    """Cut the newest entry off."""
    lines = log.files.log.read_bytes().splitlines(keepends=True)
    log.files.log.write_bytes(b"".join(lines[:-1]))


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (ahead, "site.clock", "was set back"),
        (edited, "storage.log_damaged", "are not those that this site signed"),
        (cut, "storage.log_damaged", "Nothing leaves"),
    ],
)
def test_a_node_whose_books_do_not_hold_says_so_and_is_never_seen(
    site: Site, damage: Callable[[AuditLog], None], code: str, words: str
) -> None:
    log = AuditLog(site.home.audit, EncryptedFile(site.home.keys, lambda: PASSPHRASE).identity())
    for number in range(3):
        log.write("started", number=number)
    damage(log)
    error = site.run("start")["error"]
    assert (error["code"], words in error["message"]) == (code, True)
    assert error["hint"]
    assert site.live.run(site.live.server.online()) == []
    assert site.live.asked == []
