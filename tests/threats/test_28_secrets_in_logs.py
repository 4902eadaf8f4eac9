"""Row 28. Attack: whoever reads logs, errors, arguments, environments or the wire finds rows or secrets.

Must hold: planted canaries are nowhere but in the data, passphrases nowhere but in the file that the owner
named, private keys nowhere in the clear. Real processes: a coordinator and three sites behind a company's
proxy that terminates TLS and records every byte; a run that succeeds, and runs that fail in each way that has
rows at hand. Controls: a canary that is logged, shown or sent is found by the same search.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from plasmid.core.errors import PlasmidError
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import EncryptedFile
from plasmid.gateway.keys.passphrase import from_file
from plasmid.gateway.pause import pause
from plasmid.log.audit_log import AuditLog
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import mean_from_bounds, noised
from plasmid.uplink.enrol import stranger
from plasmid.uplink.network import Network
from support.federation import deployed
from support.federation.bundle_recipes import write_recipe
from support.federation.deployed import Deployment, wait_for
from support.federation.in_memory import document_of
from support.servers.proxies import CompanyCa, Proxy

pytestmark = pytest.mark.timeout(900)
SITES = ("alpha", "beta", "gamma")
NOTE, CELL, AGE = "CANARY-NOTE-4711", "CANARY-CELL-0815", 43.2109876
"""A cell of a column that no recipe names, one where a number belongs, and one that is computed with."""
WORDS = "CANARY-WORDS-1729"
"""A wrong passphrase."""
OWN = ("passphrase", "wrong", "table.csv", "alpha.csv", "beta.csv", "gamma.csv")
"""The files that canaries and passphrases were planted in."""
HEADER = "CANARYHEADER"
"""The name of a column: the owner's log may have it, nobody else."""
ROWS = f"age,{HEADER}\n{AGE},{NOTE}\n51,x\n,x\n33,x\n"
BAD_ROWS = f"age,{HEADER}\n{CELL},{NOTE}\n{AGE},x\n"

RECIPE = """
computation: bundle
name: NAME
title: A bundle
data:
  columns: {age: {type: number, bounds: [0, 120], missing: allowed}}
  max_rows: 50
bundle: {entry: hostile, half: per_record, tensors: {counts: [3]}}
federation: {spare_attempts: 0}
"""
TELLS = """
    import sys

    def per_record(state, row, settings):
        print(row, row["age"])
        print(row, file=sys.stderr, flush=True)
        raise ValueError(f"the row is {row}, {row['age']}")
"""
DIES = """
    import os, sys

    def per_record(state, row, settings):
        print(row, file=sys.stderr, flush=True)
        os.abort()
"""
WAITS = """
    import sys, time

    def per_record(state, row, settings):
        print(row, file=sys.stderr, flush=True)
        held = [row, f"{row['age']}"]
        time.sleep(600)
        return [0.0, 0.0, 0.0]
"""
CODES = {"tells": TELLS, "dies": DIES, "waits": WAITS}


# -- the search ------------------------------------------------------------------------------------


def spellings(secret: bytes) -> list[bytes]:
    """Return *secret* as it might lie about: raw, in hexadecimal, in both kinds of base64."""
    plain = base64.b64encode(secret), base64.urlsafe_b64encode(secret)
    return [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        *(part.rstrip(b"=") for part in plain),
    ]


CANARIES: dict[str, list[bytes]] = {
    "a cell that no recipe names": [NOTE.encode()],
    "a cell of the wrong kind": [CELL.encode()],
    "a wrong passphrase": [WORDS.encode()],
    "a number": [str(AGE).encode(), struct.pack("<d", AGE), struct.pack(">d", AGE)],
}


def hits(texts: Mapping[str, bytes], wanted: Mapping[str, Sequence[bytes]]) -> list[tuple[str, str]]:
    """Return (what, where) of everything *wanted* that is in *texts*."""
    return [
        (what, where)
        for where, text in texts.items()
        for what, forms in wanted.items()
        if any(form in text for form in forms)
    ]


def files(root: Path, *, without: Sequence[str] = ()) -> dict[str, bytes]:
    """Return every file below *root* by its path, without those that are called so."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name not in without
    }


@dataclass
class Processes:
    """Arguments and environments of the sites and all their descendants, as they come and go."""

    deployment: Deployment
    seen: dict[str, bytes] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        for site in SITES:
            process = self.deployment.processes.get(site)
            if process is None:
                continue
            try:
                found = psutil.Process(process.pid)
                everyone = [found, *found.children(recursive=True)]
            except psutil.Error:
                continue
            for one in everyone:
                for name in ("cmdline", "environ"):
                    self.note(f"{site} {one.pid} {name}", Path(f"/proc/{one.pid}/{name}"))

    def note(self, where: str, path: Path) -> None:
        """Keep what the kernel shows; a process that has just gone shows nothing."""
        try:
            text = path.read_bytes()
        except OSError:
            return
        if text:
            self.seen[where] = self.seen.get(where, b"") + text

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(10)

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.look()


# -- the federation --------------------------------------------------------------------------------


class Watched(Deployment):
    """A deployment whose sites reach the coordinator through a proxy that records what it sees."""

    proxy: Proxy

    def _join(self, party: str, *command: str, fingerprint: str) -> None:
        if party in self.tables:
            trusted = self.home("coordinator") / "coordinator" / "ca.pem"
            self.proxy.upstream = ssl.create_default_context(cafile=str(trusted))
            home = SiteHome(self.home(party) / "site")
            network = Network(proxy=self.proxy.url, ca=str(self.root / "company.pem"))
            home.write_config(home.config().model_copy(update={"network": network}))
        super()._join(party, *command, fingerprint=fingerprint)


@dataclass
class Scene:
    """What there is to be searched once the runs are over."""

    deployment: Watched
    processes: Processes
    ends: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def home(self, site: str) -> SiteHome:
        return SiteHome(self.deployment.home(site) / "site")

    @cached_property
    def secrets(self) -> dict[str, list[bytes]]:
        """Return the passphrases and private keys of the sites and the researcher, in every spelling."""
        found: dict[str, list[bytes]] = {}
        raw = (Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        for party in (*SITES, "researcher"):
            words = from_file(self.deployment.home(party) / "passphrase")
            folder = self.deployment.home(party) / ("site" if party in SITES else "client")
            keys = EncryptedFile(folder / "keys.json", words)
            password = keys.tls_password()
            tls: Any = load_pem_private_key((folder / "tls.pem").read_bytes(), password)
            found |= {
                f"passphrase of {party}": spellings(words().encode()),
                f"identity key of {party}": spellings(keys.identity()._private.private_bytes(*raw)),
                f"TLS password of {party}": [*spellings(password), bytes.fromhex(password.decode())],
                f"TLS key of {party}": spellings(tls.private_bytes(*raw)),
            }
        return found

    def wanted(self) -> dict[str, list[bytes]]:
        return CANARIES | self.secrets

    def wire(self) -> dict[str, bytes]:
        """Return everything that passed between sites and coordinator, in the clear."""
        found = {}
        for number, said in enumerate(list(self.deployment.proxy.passed)):
            heads = json.dumps([said.headers, said.answer_headers], ensure_ascii=False).encode()
            found[f"{number} {said.method} {said.path}"] = b"\n".join([heads, said.body, said.answer])
        return found

    # -- runs --------------------------------------------------------------------------------------

    def recipe(self, name: str, code: str) -> Any:
        folder = self.deployment.root / "recipes" / name
        return load_recipe(write_recipe(folder, RECIPE.replace("NAME", name), hostile=code))

    def end_of(self, run: Any) -> tuple[str, str | None]:
        """Wait for the end of *run*; return its error's code, and the rule in alpha's log, or SUCCEEDED."""
        try:
            run.wait()
        except PlasmidError as error:
            said = self.deployment.log("alpha", run=run.id)
            return error.code, [line["rule"] for line in said if line["result"] in ("failed", "refused")][-1]
        return "SUCCEEDED", None

    def computing(self, run: Any) -> None:
        """Wait until every site's worker is at its rows."""
        for site in SITES:
            wait_for(lambda site=site: self.deployment.log(site, run=run.id, action="manifest"), "it", None)
        time.sleep(1.0)  # the code of the recipe is reached

    def workers(self) -> list[psutil.Process]:
        """Return the processes of all sites' workers."""
        nodes = [psutil.Process(self.deployment.processes[site].pid) for site in SITES]
        return [worker for node in nodes for worker in node.children(recursive=True)]


def live_through_everything(scene: Scene) -> None:
    """Have runs end in each way."""
    deployment, ends = scene.deployment, scene.ends
    asked, digest = document_of(mean_from_bounds("age", (0.0, 120.0), privacy=noised(None, None)))
    other, _ = document_of(mean_from_bounds("age", (0.0, 130.0), privacy=noised(None, None)))
    hostile = {name: scene.recipe(name, code) for name, code in CODES.items()}
    few = {"disclosure": {"max_parameters_share": None}}  # the tables are tiny
    deployment.allow([digest, *(recipe.digest for recipe in hostile.values())], require=few)
    deployment.start_sites()
    deployment.wait_online()
    client = deployment.client()
    ends["answered"] = scene.end_of(client.start(asked))
    ends["refused"] = scene.end_of(client.start(other))
    for name in ("tells", "dies"):
        ends[name] = scene.end_of(client.run(hostile[name]))
    table = deployment.home("alpha") / "table.csv"
    table.write_text(BAD_ROWS)
    ends["bad rows"] = scene.end_of(client.start(asked))
    table.write_text(ROWS)
    killed = client.run(hostile["waits"])
    scene.computing(killed)
    for worker in scene.workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGKILL)
    ends["killed"] = scene.end_of(killed)
    stopped = client.run(hostile["waits"])
    scene.computing(stopped)
    for site in SITES:
        pause(scene.home(site), by="ann", reason="an audit")
    ends["paused"] = scene.end_of(stopped)
    client.close()
    wrong = deployment.root / "wrong"
    wrong.write_text(WORDS)
    wrong.chmod(0o600)
    deployment.kill_site("gamma")
    process = deployment.spawn("gamma", "site", "start", "--passphrase-file", str(wrong))
    assert process.wait(60) == 1


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    root = Path(tempfile.mkdtemp(prefix="p28-", dir="/tmp"))  # short, since Ray makes sockets below it
    (root / "tmp").mkdir()
    for site in SITES:
        (root / f"{site}.csv").write_text(ROWS)
    environment = deployed._environment
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", str(root / "tmp"))
    patch.setattr(deployed, "_environment", lambda home: environment(home) | {"PLASMID_LOG": "DEBUG"})
    deployment = Watched(root, {site: root / f"{site}.csv" for site in SITES})
    try:
        with Proxy(company=CompanyCa(root)) as deployment.proxy, deployment:
            made = Scene(deployment, Processes(deployment))
            with made.processes.watched():
                live_through_everything(made)
                yield made
    finally:
        patch.undo()
        shutil.rmtree(root, ignore_errors=True)


# -- the tests -------------------------------------------------------------------------------------


def test_every_run_ended_in_its_way(scene: Scene) -> None:
    assert scene.ends == {
        "answered": ("SUCCEEDED", None),
        "refused": ("recipe.too_few_sites", "policy.digest_not_allowed"),
        "tells": ("run.no_attempts", "run.bundle"),
        "dies": ("run.no_attempts", "site.worker_died"),
        "bad rows": ("recipe.too_few_sites", "data.not_a_number"),
        "killed": ("run.no_attempts", "site.worker_died"),
        "paused": ("run.no_attempts", "site.paused"),
    }
    assert "keys.passphrase" in (scene.deployment.root / "gamma.log").read_text()


@pytest.mark.promise("no-cell-outside")
def test_no_file_of_any_party_holds_a_canary_or_a_secret(scene: Scene) -> None:
    """Everybody's folder, all logs and outputs at the level DEBUG, temporary files, Ray's session."""
    found = files(scene.deployment.root, without=OWN)
    names = {name.rpartition("/")[2] for name in found}
    assert {"log.jsonl", "worker.log", "keys.json", "tls.pem", "state.db", "alpha.log"} <= names
    assert any(b"DEBUG" in text for name, text in found.items() if name.endswith("alpha.log"))
    assert hits(found, scene.wanted()) == []


def test_no_process_shows_one(scene: Scene) -> None:
    seen = scene.processes.seen
    assert sum(b"plasmid.worker.worker" in text for text in seen.values()) >= 3
    assert sum(b"PLASMID_PASSPHRASE_FILE" in text for text in seen.values()) >= 3, "which names a file"
    assert hits(seen, scene.wanted()) == []


@pytest.mark.promise("no-cell-outside")
def test_no_byte_on_the_wire_holds_one(scene: Scene) -> None:
    wire = scene.wire()
    bodies = [where for where in wire if "/bodies/" in where]
    assert len(wire) > 50
    assert bodies
    assert any(b"contribution" in text for text in wire.values())
    assert hits(wire, scene.wanted() | {"a column's name": [HEADER.encode()]}) == []


def test_no_export_or_answer_of_a_command_holds_one(scene: Scene, tmp_path: Path) -> None:
    found = {}
    for site in SITES:
        path = tmp_path / site
        scene.deployment.cli(site, "audit", "export", str(path))
        found[f"export of {site}"] = path.read_bytes()
    for words in (["audit", "ls"], ["site", "outbox"], ["site", "status"]):
        answer = scene.deployment.cli("alpha", *words)
        found[" ".join(words)] = json.dumps(answer, ensure_ascii=False).encode()
    assert b"data.not_a_number" in found["audit ls"], "the owner is told which rule the rows broke"
    assert hits(found, scene.wanted()) == []


# -- controls --------------------------------------------------------------------------------------


def test_control_a_canary_that_is_logged_is_found_in_log_and_export(scene: Scene, tmp_path: Path) -> None:
    copy = SiteHome(tmp_path / "site")
    shutil.copytree(scene.home("alpha").folder, copy.folder)
    keys = EncryptedFile(copy.keys, from_file(scene.deployment.home("alpha") / "passphrase"))
    assert hits(files(tmp_path, without=OWN), scene.wanted()) == []
    AuditLog(copy.audit, keys.identity()).write("notice", reason=f"the row is {NOTE}", result="noted")
    assert hits(files(tmp_path, without=OWN), scene.wanted()) == [
        ("a cell that no recipe names", "site/audit/log.jsonl")
    ]
    export = tmp_path / "export"
    scene.deployment.cli("alpha", "audit", "export", str(export), "--home", str(copy.folder))
    assert hits({"export": export.read_bytes()}, CANARIES) == [("a cell that no recipe names", "export")]


def test_control_what_a_process_shows_is_found(scene: Scene) -> None:
    seen = Processes(scene.deployment)
    for words, more in (([NOTE], {}), ([], {"X": NOTE})):
        command = [sys.executable, "-c", "import time; time.sleep(60)", *words]
        child = subprocess.Popen(command, env={**os.environ, **more})
        started = Path(f"/proc/{child.pid}/cmdline")
        wait_for(started.read_bytes, "its command line", child)
        for name in ("cmdline", "environ"):
            seen.note(f"{len(words)} {name}", Path(f"/proc/{child.pid}/{name}"))
        child.kill()
        child.wait()
    assert [where for _, where in hits(seen.seen, CANARIES)] == ["1 cmdline", "0 environ"]


def test_control_what_a_site_says_is_found_on_the_wire(scene: Scene) -> None:
    network = Network(proxy=scene.deployment.proxy.url)
    with stranger(False, network, scene.deployment.root) as client:
        client.post(f"{scene.deployment.url}/v1/enrol", content=json.dumps({"row": NOTE}))
    assert [what for what, _ in hits(scene.wire(), CANARIES)] == ["a cell that no recipe names"]
    del scene.deployment.proxy.passed[-1]


@pytest.mark.parametrize("spelling", range(5))
def test_control_every_spelling_of_every_secret_is_found(scene: Scene, spelling: int) -> None:
    for what, forms in scene.secrets.items():
        assert hits({"a file": b"key=" + forms[spelling] + b";"}, scene.secrets) == [(what, "a file")]
