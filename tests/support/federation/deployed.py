"""A deployed federation on this host: each party a process with its own home, started as the docs say.

Nothing is shared between parties but what their people would exchange: the coordinator's URL, fingerprints,
invitations, and the sites' public cards. What stays up is started cold, what only answers warm
(:mod:`support.servers.warm`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from plasmid.gateway.keys.keystore import draw_passphrase
from plasmid.gateway.keys.passphrase import from_file
from support.federation.in_memory import flat
from support.servers import warm

START_S = 60.0


def cli(*arguments: str, home: Path, user: int | None = None, check: bool = True) -> dict[str, Any]:
    """Run one ``plasmid`` command to its end and return its JSON answer."""
    done = warm.run(
        "plasmid.cli.main", [*arguments, "--format", "json"], env=_environment(home), cwd=home, user=user
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    if check and (done.returncode or answer["status"] != "ok"):
        raise AssertionError(f"plasmid {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
    return answer


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLASMID")}
    passphrase = home / "passphrase"
    if passphrase.exists():
        kept["PLASMID_PASSPHRASE_FILE"] = str(passphrase)
    return {**kept, "PLASMID_HOME": str(home), "HOME": str(home), "OMP_NUM_THREADS": "1"}


@dataclass
class Deployment:
    """A context manager: the coordinator is up, sites are enrolled; :meth:`start_sites` starts them.

    Attributes
    ----------
    tables
        Each site's CSV, None for a site without data.
    users
        A user id for each party where the test may switch users, else empty.
    public_size
        What every site's owner declares, None for nothing.
    project
        Digest of the project ``trial`` of all sites, in which the researcher launches and receives.
    """

    root: Path
    tables: Mapping[str, Path | None]
    users: Mapping[str, int] = field(default_factory=dict)
    public_size: int | None = None
    url: str = ""
    project: str = ""

    def __post_init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Deployment:
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def home(self, party: str) -> Path:
        """Return a party's own folder; nobody else may look into it."""
        folder = self.root / party
        if not folder.exists():
            folder.mkdir(mode=0o700)
            if party in self.users:
                os.chown(folder, self.users[party], self.users[party])
        return folder

    def cli(self, party: str, *arguments: str, check: bool = True) -> dict[str, Any]:
        """Run a command as *party*."""
        return cli(*arguments, home=self.home(party), user=self.users.get(party), check=check)

    def text(self, party: str, *arguments: str) -> str:
        """Run a command as *party* and return what it prints for people."""
        home = self.home(party)
        environment = _environment(home) | {"COLUMNS": "400"}
        done = warm.run("plasmid.cli.main", arguments, env=environment, cwd=home, user=self.users.get(party))
        assert done.returncode == 0, f"plasmid {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def spawn(self, party: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a long-running command as *party*; its log is ``party.log``."""
        user = self.users.get(party)
        with (self.root / f"{party}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "plasmid.cli.main", *arguments, "--until-stdin-closes"],
                env=_environment(self.home(party)),
                cwd=self.home(party),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[] if user is not None else None,
            )
        self.processes[party] = process
        return process

    def _set_up(self) -> None:
        made = self.cli("coordinator", "coordinator", "init")["data"]
        self.spawn("coordinator", "coordinator", "start")
        endpoint = self.home("coordinator") / "coordinator" / "endpoint.json"
        wait_for(endpoint.exists, "the coordinator", self.processes["coordinator"])
        self.url = json.loads(endpoint.read_text())["url"]
        fingerprint = made["fingerprint"]
        for party in (*self.tables, "researcher"):
            self._draw_passphrase(party)
        cards = []
        for site, table in self.tables.items():
            how = ["--organisation", f"{site}-org"]
            how += ["--data", str(self._own_copy(site, table))] if table else []
            how += ["--public-size", str(self.public_size)] if self.public_size else []
            cards.append(self.cli(site, "site", "init", site, *how)["data"])
        for site in self.tables:
            peers = self.home(site) / "peers-from-their-owners.yaml"
            peers.write_text(json.dumps({"sites": [card["card"] for card in cards]}))
            self._join(site, "site", "join", "--peers", str(peers), fingerprint=fingerprint)
        self._join(
            "researcher", "login", "researcher", "--organisation", "researcher-org", fingerprint=fingerprint
        )
        self.project = self._sign_project()

    def _sign_project(self) -> str:
        """Have the researcher propose a project of all sites, and every owner sign it; return its digest."""
        sites = [part for site in self.tables for part in ("--site", site)]
        how = ["--purpose", "vaccine-research", "--until", "2099-12-31", "--yes"]
        digest: str = self.cli("researcher", "project", "new", "trial", *sites, *how)["data"]["digest"]
        for site in self.tables:
            self.cli(site, "project", "sign", digest, "--yes")
        return digest

    def _own_copy(self, site: str, table: Path) -> Path:
        copy = self.home(site) / "table.csv"
        copy.write_bytes(table.read_bytes())
        copy.chmod(0o644)
        return copy

    def _join(self, party: str, *command: str, fingerprint: str) -> None:
        role = "site" if party in self.tables else "person"
        invite = ["coordinator", "invite", party, "--organisation", f"{party}-org", "--role", role]
        secret = self.cli("coordinator", *invite)["data"]["invitation"]
        how = ["--coordinator", self.url, "--invitation", secret, "--coordinator-fingerprint", fingerprint]
        self.cli(party, *command, *how)

    def join_person(self, party: str) -> None:
        """Enrol one more person, who is in no project."""
        self._draw_passphrase(party)
        fingerprint = self.cli("coordinator", "coordinator", "show")["data"]["fingerprint"]
        self._join(party, "login", party, "--organisation", f"{party}-org", fingerprint=fingerprint)

    def _draw_passphrase(self, party: str) -> None:
        path = self.home(party) / "passphrase"
        draw_passphrase(path)
        if party in self.users:
            os.chown(path, self.users[party], self.users[party])

    def allow(self, digests: Sequence[str], **policy: Any) -> None:
        """Write every site's policy, as its owner would."""
        for site in self.tables:
            text = json.dumps({"allow": list(digests), **policy})
            (self.home(site) / "site" / "policy.yaml").write_text(text)

    def start_sites(self) -> None:
        """Start every site's process."""
        for site in self.tables:
            self.start_site(site)

    def start_site(self, site: str) -> None:
        """Start one site's process."""
        self.spawn(site, "site", "start")

    def kill_site(self, site: str) -> None:
        """Kill a site's process and its worker, as a power cut would."""
        process = self.processes.pop(site)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def restart_coordinator(self) -> None:
        """End the coordinator, and start it again at its old address."""
        process = self.processes.pop("coordinator")
        assert process.stdin is not None, "it was spawned with a pipe"
        process.stdin.close()
        process.wait(START_S)
        port = self.url.rpartition(":")[2]
        started = self.spawn("coordinator", "coordinator", "start", "--port", port)

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(port))) == 0

        wait_for(listens, "the coordinator", started)
        self.wait_online()

    def client(self) -> Any:
        """Return the researcher's connection, which the caller closes."""
        from plasmid.client import Coordinator
        from plasmid.uplink.enrol import Credential

        passphrase = from_file(self.home("researcher") / "passphrase")
        return Coordinator(credential=Credential(self.home("researcher") / "client"), passphrase=passphrase)

    def log(self, site: str, **matching: Any) -> list[dict[str, Any]]:
        """Return the entries of a site's audit log with these values, facts included."""
        lines = (self.home(site) / "site" / "audit" / "log.jsonl").read_text().splitlines()
        found = [flat(json.loads(line)) for line in lines]
        return [line for line in found if all(line.get(name) == value for name, value in matching.items())]

    def wait_online(self) -> None:
        """Wait until the coordinator sees every site."""
        from plasmid.uplink.enrol import fetch_roster

        client = self.client()
        try:
            everyone = set(self.tables)
            wait_for(lambda: set(fetch_roster(client.link)[1]) == everyone, "the sites", None, pause_s=0.02)
        finally:
            client.close()

    def close(self) -> None:
        """End every process that this deployment started."""
        for process in self.processes.values():
            if process.stdin is not None:
                process.stdin.close()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(
    condition: Any, what: str, process: subprocess.Popen[bytes] | None, *, pause_s: float = 0.05
) -> None:
    """Wait until *condition* holds; fail if *process* ends or after ``START_S``."""
    deadline = time.monotonic() + START_S
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"{what} ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} not up after {START_S} s")
        time.sleep(pause_s)
