"""Keys, certificates and membership of a deployed federation, in the middle of runs.

Every site's keys are under a passphrase that its process is given as a file. Each test begins a run, waits
until rounds are opened, does something to a member, and looks at what every log says from then on.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from plasmid.client import Coordinator
from plasmid.client.api import Run
from plasmid.core.clock import parse
from plasmid.core.errors import PlasmidError
from plasmid.recipes.query import PingDocument
from support.federation.attacks import refusal
from support.federation.deployed import Deployment, wait_for
from support.federation.in_memory import document_of

pytestmark = pytest.mark.timeout(600)
SITES = ("alpha", "beta", "delta", "gamma")
ROUNDS = 3
SHORT, DIGEST = document_of(PingDocument(length=64, rounds=ROUNDS))
LONG, LONG_DIGEST = document_of(PingDocument(length=64, rounds=250))
LEAVES = {"released", "consent", "shares", "epoch", "ready", "accepted"}


@pytest.fixture(scope="module")
def federation() -> Iterator[Deployment]:
    with (
        tempfile.TemporaryDirectory(prefix="plasmid-members-") as folder,
        Deployment(Path(folder), dict.fromkeys(SITES)) as made,
    ):
        made.allow([DIGEST, LONG_DIGEST])
        made.start_sites()
        made.wait_online()
        yield made


@pytest.fixture
def researcher(federation: Deployment) -> Iterator[Coordinator]:
    client = federation.client()
    yield client
    client.close()


def begin(federation: Deployment, researcher: Coordinator, sites: Sequence[str] = SITES) -> Run:
    """Start a run of many rounds and return it once every site has sent three vectors."""
    run = researcher.start(LONG, sites=list(sites))
    for site in sites:
        more(federation, run, site)
    return run


def more(federation: Deployment, run: Run, site: str, rounds: int = 3) -> None:
    """Wait until *site* has sent some vectors more."""

    def sent() -> int:
        return len(federation.log(site, run=run.id, action="released"))

    before = sent()
    wait_for(lambda: sent() >= before + rounds, f"{site} in {run.id}", federation.processes[site])


def stop(run: Run) -> None:
    """Stop a run that is still under way."""
    run.stop()
    with refusal("run.stopped"):
        run.wait()


def over(federation: Deployment, run: Run, site: str) -> bool:
    """Whether *run* has ended at *site*: by the coordinator's word, or as the site went no further."""
    return any(entry["action"] in ("end", "failed") for entry in federation.log(site, run=run.id))


def state(federation: Deployment, run: Run) -> str:
    """Return the state of *run* as the coordinator has it."""
    with contextlib.closing(
        sqlite3.connect(federation.home("coordinator") / "coordinator" / "state.db")
    ) as db:
        return str(db.execute("SELECT state FROM runs WHERE id = ?", (run.id,)).fetchone()[0])


def summed(federation: Deployment, run: Run, site: str = "beta") -> list[list[str]]:
    """Return whose vectors *site* has agreed to open the sum of, round by round."""
    return [list(entry["survivors"]) for entry in federation.log(site, run=run.id, action="consent")]


def survivors(run: Run) -> list[list[str]]:
    """Wait for the end of *run*; return who was in each round's sum."""
    run.wait()
    return [sorted(names) for names in run.result()["survivors"]]


def since(federation: Deployment, site: str, action: str, **matching: Any) -> list[dict[str, Any]]:
    """Return the entries of a site's log after the newest one of *action*."""
    newest = federation.log(site, action=action, **matching)[-1]["seq"]
    return [entry for entry in federation.log(site) if entry["seq"] > newest]


def test_the_keys_lie_encrypted_and_the_process_has_no_passphrase_in_sight(federation: Deployment) -> None:
    for site in SITES:
        words = (federation.home(site) / "passphrase").read_text().strip()
        keys = json.loads((federation.home(site) / "site" / "keys.json").read_text())
        assert (keys["kdf"], keys["cipher"]) == ("scrypt", "AES-256-GCM")
        assert "ENCRYPTED" in (federation.home(site) / "site" / "tls.pem").read_text()
        process = Path(f"/proc/{federation.processes[site].pid}")
        assert words not in (process / "cmdline").read_text() + (process / "environ").read_text()
        assert (
            f"PLASMID_PASSPHRASE_FILE={federation.home(site) / 'passphrase'}"
            in (process / "environ").read_text()
        )


@pytest.mark.slow  # over real TLS, but with no run beside it, in tests/link/test_membership.py
def test_a_certificate_rotates_while_a_run_goes_on(federation: Deployment, researcher: Coordinator) -> None:
    run = begin(federation, researcher)
    certificate = federation.home("alpha") / "site" / "tls.pem"
    before = certificate.read_bytes()
    federation.cli("alpha", "site", "rotate")
    assert certificate.read_bytes() != before
    more(federation, run, "alpha")
    stop(run)
    assert federation.log("alpha", action="rotated")
    assert federation.log("alpha", action="failed") == []
    assert {tuple(names) for names in summed(federation, run)} == {SITES}, "nobody was lost"
    federation.cli("alpha", "site", "rotate")  # once more, idle
    assert survivors(researcher.start(SHORT)) == [list(SITES)] * ROUNDS


def test_a_pause_ends_a_site_s_part_at_once_and_is_logged(
    federation: Deployment, researcher: Coordinator
) -> None:
    run = begin(federation, researcher)
    others = [site for site in SITES if site != "alpha"]
    said = federation.cli("alpha", "site", "pause", "--reason", "an audit", "--by", "ann")["data"]
    try:
        assert said["running"] is True
        more(federation, run, "beta")
        stop(run)
        assert summed(federation, run)[0] == list(SITES)
        assert summed(federation, run)[-1] == others, "who went on without it"
        # another run does not get it, until its owner says so
        assert survivors(researcher.start(SHORT)) == [others] * ROUNDS
    finally:
        federation.cli("alpha", "site", "resume", "--by", "ann")
    (entry,) = federation.log("alpha", action="paused")
    assert (entry["actor"], entry["reason"]) == ("person:ann", "an audit")
    (resumed,) = federation.log("alpha", action="resumed")
    meanwhile = [line for line in since(federation, "alpha", "paused") if line["seq"] < resumed["seq"]]
    begun = [line["action"] for line in meanwhile if line["action"] in LEAVES]
    assert len(begun) <= 1, "the step that was under way is logged, and looks again before it sends"
    (failed,) = [line for line in meanwhile if line["action"] == "failed"]
    assert (failed["run"], failed["rule"]) == (run.id, "site.paused")
    assert (parse(failed["time"]) - parse(entry["time"])).total_seconds() <= 5.0
    assert {line["actor"] for line in meanwhile if line["action"] == "end"} <= {"owner"}
    assert [line["rule"] for line in meanwhile if line["action"] == "refused"] == ["site.paused"]
    assert survivors(researcher.start(SHORT)) == [list(SITES)] * ROUNDS


def test_a_revoked_site_is_out_at_once(federation: Deployment, researcher: Coordinator) -> None:
    run = begin(federation, researcher)
    gone, others = "delta", [site for site in SITES if site != "delta"]
    said = federation.cli("coordinator", "coordinator", "revoke", gone, "--reason", "its disk was stolen")
    assert said["data"]["revocation"]["name"] == gone
    process = federation.processes[gone]
    assert process.wait(10) == 1, "its poll, which waits for 20 s, has ended"
    text = (federation.root / f"{gone}.log").read_text()
    assert "error [link.revoked]" in text or "error [link.not_enrolled]" in text
    more(federation, run, "beta")
    stop(run)
    assert summed(federation, run)[0] == list(SITES)
    assert summed(federation, run)[-1] == others
    for site in others:
        (entry,) = federation.log(site, action="revoked")
        assert (entry["name"], entry["role"]) == (gone, "site")
        assert "its disk was stolen" in str(entry)
    answer = federation.cli(gone, "site", "start", check=False)
    assert answer["error"]["code"] == "link.not_enrolled"
    assert federation.cli(gone, "site", "rotate", check=False)["error"]["code"] == "link.not_enrolled"
    (row,) = [
        peer for peer in federation.cli("alpha", "site", "peers", "ls")["data"]["peers"] if peer["revoked"]
    ]
    assert row["name"] == gone
    assert survivors(researcher.start(SHORT, sites=others)) == [others] * ROUNDS


def test_a_revoked_person_s_run_stops_and_nothing_is_open_to_her(
    federation: Deployment, researcher: Coordinator
) -> None:
    others = [site for site in SITES if federation.processes[site].poll() is None]
    run = begin(federation, researcher, others)
    ended: list[PlasmidError] = []

    def wait() -> None:
        with pytest.raises(PlasmidError) as caught:
            run.wait()
        ended.append(caught.value)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    how = ["revoke", "researcher", "--reason", "has left the project"]
    federation.cli("coordinator", "coordinator", *how)
    waiting.join(30)
    assert [error.code for error in ended] == ["link.not_enrolled"]
    for site in others:
        wait_for(lambda site=site: over(federation, run, site), site, None)
        assert federation.log(site, action="revoked", role="person")
        after = since(federation, site, "revoked", role="person")
        assert [line for line in after if line["action"] == "released"] == []
    wait_for(lambda: state(federation, run) in ("STOPPED", "FAILED"), "the end of it", None)
    with refusal("link.not_enrolled"):
        researcher.runs()
