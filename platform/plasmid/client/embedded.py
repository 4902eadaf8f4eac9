"""The embedded federation: the deployed form, started by a launcher on one host.

Rules
-----
1. Coordinator and sites are the same processes that ``plasmid coordinator start`` and ``plasmid site
   start`` run, enrolled by the same invitations, speaking over the same TLS. This module makes their
   folders under ``PLASMID_HOME`` and starts and ends them; it is no other path.
2. Each party's keys lie encrypted in its folder, under a passphrase that is drawn for it and lies beside
   them: a rehearsal has one owner, and nobody to hide a key from.
3. The launcher owns all the data, so it confirms every peer (one organisation per site), has them sign one
   project, ``rehearsal``, and, once the plan is confirmed, writes each site's policy for that digest, unless
   the owner gave one.
4. Children see their standard input close when the launcher goes, however it goes, and end.
5. Every child is in a session of its own, so that Ctrl-C reaches the launcher alone, which ends them.
6. Workers are locked in as well as this host can; where it cannot at all, the rehearsal goes on and says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from plasmid.cli.verbs.site import init_site
from plasmid.client.api import Coordinator
from plasmid.coordinator.coordinator import CoordinatorHome
from plasmid.core.clock import now, stamp
from plasmid.core.errors import LinkError, PlasmidError, RunFailed, from_dict
from plasmid.core.files import home, write_atomic
from plasmid.core.settings import dump_settings
from plasmid.data.views.public_size import public_size
from plasmid.dp.budgets import Population, exact
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import DRAWN, KEYS_FILE, EncryptedFile, Passphrase, draw_passphrase
from plasmid.gateway.keys.passphrase import drawn_file, from_file
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members.peers import Peer, Peers, write_peers
from plasmid.gateway.members.projects import Projects, sign_project
from plasmid.gateway.personal import Personal
from plasmid.gateway.status import read_status
from plasmid.isolation.choice import strongest
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.enrolment import Role
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.project import Project, ProjectPerson, ProjectSite
from plasmid.secagg.statements import IsolationLevel
from plasmid.uplink.enrol import Credential, enrol, fetch_roster
from plasmid.uplink.projects import put_project

START_TIMEOUT_S = 120.0
END_GRACE_S = 4.0
_PERSON, _ORGANISATION = "launcher", "embedded"


def drawn(folder: Path) -> Passphrase:
    """Draw a passphrase for new keys in *folder* and return where it is."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draw_passphrase(drawn_file(folder))
    return from_file(drawn_file(folder))


class Embedded:
    """A context manager: inside it, ``coordinator`` is connected and every site is up.

    Parameters
    ----------
    tables
        Each site's CSV file.
    policies
        Policies that owners gave, by site; the other sites get theirs from :meth:`allow`.
    port
        The coordinator's port, 0 for any.

    Attributes
    ----------
    project
        Digest of the project that the sites have signed.
    isolation
        How every site's workers are locked in, and why it is ``none`` if it is.
    """

    def __init__(self, tables: Mapping[str, Path], *, policies: Mapping[str, Path], port: int = 0) -> None:
        self._tables = dict(tables)
        self._policies = dict(policies)
        self._port = port
        self._home = CoordinatorHome(home() / "coordinator")
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.coordinator: Coordinator
        self.isolation: tuple[IsolationLevel, str] = ("none", "")

    def __enter__(self) -> Embedded:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def sites(self) -> list[str]:
        """The sites' names."""
        return sorted(self._tables)

    def has_own_policy(self, site: str) -> bool:
        """Whether the owner gave a policy for *site*."""
        return site in self._policies

    def allow(self, document: Mapping[str, Any], digest: str) -> None:
        """Declare each site's public size, and write the policy of every site whose owner gave none.

        This digest may run. Under a privacy unit the budget is what the site's ledger has spent so far and
        what this run costs: a rehearsal may always go on, and the ledger still adds up. An owner who gave a
        policy has given the budget of the population ``default`` in it.
        """
        privacy = document["privacy"]
        for site in self._tables:
            home = self._site(site)
            policy: dict[str, Any] = {"allow": [digest], "require": {"protect": privacy["protect"]}}
            if ((document.get("federation") or {}).get("weights") or {}).get("by") == "records":
                policy["require"]["row_counts"] = "coarse"
            if privacy["unit"] != "none":
                own = self.has_own_policy(site)
                population = "default" if own else f"{document['name'][:55]}-{privacy['unit']}"
                size = public_size(self._tables[site], document)
                update = {"population": population, "public_size": size}
                home.write_config(home.config().model_copy(update=update))
                spent = Ledger(home.ledger).summary().get(population, Population())
                policy["budgets"] = {
                    population: {
                        "unit": privacy["unit"],
                        "epsilon": float(spent.epsilon + exact(privacy["epsilon"])),
                        "delta": float(spent.delta + exact(privacy["delta"])),
                    }
                }
            if not self.has_own_policy(site):
                write_atomic(home.policy, dump_settings(policy))

    def ended(self) -> dict[str, RunFailed]:
        """Return how each process ended that has, a site's or the ``coordinator``, and where its log is."""
        return {
            name: RunFailed(
                "run.process_died",
                f"the process of {name} ended with status {child.returncode}.",
                f"Its log is {self._log(name)}.",
            )
            for name, child in self._children.items()
            if child.poll() is not None
        }

    def await_own(self, run: str, steps: int, *, timeout_s: float) -> None:
        """Wait until each site has made its own adapter of *run*, with so many *steps*, or given it up.

        The sites end with the launcher, and with them what they had not finished.
        """
        began, deadline = stamp(now()), time.monotonic() + timeout_s
        waiting = set(self.sites)
        while waiting and time.monotonic() < deadline:
            for site in list(waiting):
                home, said = self._site(site), read_status(self._site(site))
                given_up = str(said.get("time", "")) > began and run not in said.get("runs", {})
                if given_up or site in self.ended() or Personal(home.personal).steps(run) == steps:
                    waiting.discard(site)
            time.sleep(0.1)

    # -- start -------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._home.exists:
            self._home.create(["localhost", "127.0.0.1"])
        url = self._start_coordinator()
        launcher = Credential(self._home.folder / "launcher")
        key = self._home.identity().public
        if not launcher.enrolled:
            shutil.rmtree(launcher.folder, ignore_errors=True)
            new = drawn(launcher.folder)
            keys = EncryptedFile.create(launcher.folder / KEYS_FILE, _PERSON, new, cost=DRAWN)
            self._enrol(launcher.folder, url, role="person", organisation=_ORGANISATION, keys=keys)
        self.coordinator = Coordinator(
            url, credential=launcher, passphrase=from_file(drawn_file(launcher.folder)), rehearsal=True
        )
        self.isolation = strongest()
        cards = [self._prepare_site(site, url, key) for site in self.sites]
        for site in self.sites:
            others = [card for card in cards if card.name != site]
            write_peers(self._site(site).peers, Peers(coordinator=key, sites=others))
        self.project = self._rehearsal(cards)
        threads = str(max(1, _cores() // len(cards)))
        for site in self.sites:
            folder = self._site(site).folder
            command = ["site", "start", "--home", str(folder)]
            command += ["--passphrase-file", str(drawn_file(folder))]
            self._spawn(site, command, {"OMP_NUM_THREADS": threads})
        self._await_sites()

    def _start_coordinator(self) -> str:
        command = ["coordinator", "start", "--home", str(self._home.folder), "--port", str(self._port)]
        child = self._spawn("coordinator", [*command, "--format", "json"], {})
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            url = self._home.endpoint(child.pid)  # not that of another run in this home
            if url is not None:
                return url
            if child.poll() is not None:
                raise self._why(child)
            time.sleep(0.05)
        raise RunFailed("run.coordinator_start", f"the coordinator was not up after {START_TIMEOUT_S:.0f} s.")

    def _why(self, child: subprocess.Popen[bytes]) -> PlasmidError:
        assert child.stdout is not None
        try:
            answer = json.loads(child.stdout.read().splitlines()[-1])
            return from_dict(answer["error"])
        except (ValueError, IndexError, TypeError, KeyError):
            return RunFailed(
                "run.coordinator_start",
                f"the coordinator ended with status {child.returncode}.",
                f"Its log is {self._log('coordinator')}.",
            )

    def _prepare_site(self, name: str, url: str, coordinator_key: str) -> Peer:
        site, credential = self._site(name), Credential(self._site(name).folder)
        if credential.enrolled and credential.coordinator()[1] != coordinator_key:
            shutil.rmtree(site.folder)
        if not credential.enrolled:
            shutil.rmtree(site.folder, ignore_errors=True)
            new = drawn(site.folder)
            init_site(site, name=name, organisation=name, data=self._tables[name], passphrase=new, cost=DRAWN)
            keys = EncryptedFile(site.keys, new)
            self._enrol(site.folder, url, role="site", organisation=name, keys=keys)
        credential.move(url)
        settings = {"data": str(self._tables[name].absolute()), "isolation": self.isolation[0]}
        site.write_config(site.config().model_copy(update=settings))
        site.policy.unlink(missing_ok=True)
        if name in self._policies:
            write_atomic(site.policy, self._policies[name].read_bytes())
        return Peer(name=name, organisation=name, key=site.public)

    def _rehearsal(self, cards: list[Peer]) -> str:
        """Have every site sign the project of this rehearsal, unless it has; return its digest.

        It has no dates of its own, so that the same sites always rehearse in the same project.
        """
        launcher = ProjectPerson(
            name=_PERSON,
            organisation=_ORGANISATION,
            key=self.coordinator.public,
            roles=["launch", "receive"],
        )
        project = Project(
            name="rehearsal",
            purpose="rehearsal",
            description="One owner holds the data and the keys of every site.",
            sites=[ProjectSite.model_validate(card.model_dump()) for card in cards],
            people=[launcher],
            first_day="2000-01-01",
            last_day="9999-12-31",
        )
        envelope = Envelope.of(project)
        for card in cards:
            site = self._site(card.name)
            signer = EncryptedFile(site.keys, from_file(drawn_file(site.folder))).identity()
            projects = Projects(site.projects, name=card.name, key=card.key)
            if project.digest() in projects.all():
                envelope = envelope.signed(signer)
            else:
                envelope = sign_project(envelope, signer, projects, AuditLog(site.audit, signer))
        return put_project(self.coordinator.link, envelope)

    def _enrol(self, folder: Path, url: str, *, role: Role, organisation: str, keys: EncryptedFile) -> None:
        invitation = self._home.registry().invite(name=keys.name, role=role, organisation=organisation)
        enrol(
            folder,
            keys,
            url=url,
            role=role,
            organisation=organisation,
            invitation=invitation,
            confirm=lambda _what, _shown: True,  # the launcher has just made this coordinator itself
        )

    def _await_sites(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while set(self.sites) - set(fetch_roster(self.coordinator.link)[1]):
            for problem in self.ended().values():
                raise problem
            if time.monotonic() > deadline:
                raise LinkError("link.offline", f"not all sites were up after {START_TIMEOUT_S:.0f} s.")
            time.sleep(0.1)

    def _spawn(
        self, name: str, command: list[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        log = self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            child = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "plasmid.cli.main", *command, "--until-stdin-closes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._children[name] = child
        return child

    def _site(self, name: str) -> SiteHome:
        return SiteHome(home() / "sites" / name)

    def _log(self, name: str) -> Path:
        return home() / "logs" / f"{name}.log"

    # -- end ---------------------------------------------------------------------------------------

    def _end(self) -> None:
        if hasattr(self, "coordinator"):
            self.coordinator.close()
        for child in self._children.values():
            if child.stdin is not None:
                with contextlib.suppress(OSError):
                    child.stdin.close()
        deadline = time.monotonic() + END_GRACE_S
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
        self._children.clear()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
