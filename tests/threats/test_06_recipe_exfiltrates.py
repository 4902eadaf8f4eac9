"""Row 6. Attack: code of a recipe opens connections, reads files, signals, bombs with processes and memory.

Must hold: all denied at every real level, and the site's log says what was tried. The code is that of an
approved bundle, in a real node's worker; without a sandbox each attempt gets through, in a harmless form.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.gateway import node as node_module
from plasmid.gateway.node import Node
from plasmid.isolation.launcher import LocalLauncher
from plasmid.isolation.levels import Limits
from plasmid.isolation.port import Isolation
from plasmid.protocol.body import pack
from plasmid.protocol.messages import End, sign
from support.federation.attacks import as_csv
from support.federation.bundle_recipes import ages, bundle_recipe
from support.federation.in_memory import SITES, Federation
from support.federation.one_node import Outbox, admit, no_run, noted, set_up
from support.servers.sandboxed import ALL, ATTACKS, REAL, SECRET, Victim

LIMITS = Limits(memory_mib=1024, cpu_s=300, processes=8, scratch_mib=16)
OTHER_PROCESSES_ENVIRONMENT = "environments of other processes"
TRIED = {
    "TCP": ATTACKS["tcp"],
    "UDP": ATTACKS["udp"],
    "DNS": ATTACKS["dns"],
    "keys": ATTACKS["the site's keys"],
    "rows": "done('age' in open(home + '/data/table.csv').read())",
    "host": ATTACKS["the host's accounts"],
    "/proc/1/environ": "done(open('/proc/1/environ', 'rb').read() is not None)",
    "environ": ATTACKS[OTHER_PROCESSES_ENVIRONMENT],
    "link": ATTACKS["a link out of the private folder"],
    "memory": "import mmap\nmmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE)\ndone(True)",
    "processes": ATTACKS["more processes than it may"],
    "signal to the gateway": ATTACKS["a signal to the gateway"],
    "signal": ATTACKS["a signal to another process"],
}
"""In this order: the last one ends its victim, where it gets through."""
LOGGED = {
    "socket(AF_INET) was refused",
    "2048 MiB of memory at once were refused",
    "more than 8 processes were refused",
    "kill was refused",
}
"""Files and links are not there, or not to be opened: the kernel says so to the worker alone."""
TRY = """
import json, os, sys

class Said(Exception):
    pass

def done(through):
    raise Said(through)

def vector(state, view, settings):
    for name, text in {tried!r}.items():
        try:
            exec(text, dict({names!r}, done=done, json=json, os=os, sys=sys))
            said = "nothing"
        except Said as told:
            said = told.args[0]
        except BaseException as error:
            said = type(error).__name__
        os.write(2, json.dumps([name, said]).encode() + b"\\n")  # what it prints goes nowhere
    return [0.0, 0.0, 0.0]
"""


@dataclass
class Site:
    """What came of a run at one level."""

    level: str
    said: dict[str, Any]
    posted: Outbox
    federation: Federation
    heard: bytes
    victim_lives: bool

    def log(self, action: str) -> list[dict[str, Any]]:
        """Return the entries of the site's log of one action."""
        return noted(self.federation, action)


def hostile_run(folder: Path, isolation: Isolation, tried: dict[str, str]) -> Site:
    """Run one round of a bundle that does what *tried* says, at a node at this level."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        stack.enter_context(contextlib.chdir(folder))
        victim = stack.enter_context(Victim(folder))
        sites = folder / "sites"
        names = {**victim.names, "home": str(sites / "alpha")}
        document = bundle_recipe(TRY.format(tried=tried, names=names), half="vector")
        tables = dict.fromkeys(SITES, as_csv(ages(1.0, 60.0)))
        federation, outbox = Federation(sites, document=document, tables=tables), Outbox()
        (sites / "alpha" / "keys.json").write_text(SECRET)
        outbox.state = pack("state", np.zeros(3))
        patch.setattr(node_module.Credential, "connect", lambda *_, **__: outbox)
        launcher = LocalLauncher(isolation.level, limits=LIMITS)
        node = Node(federation.home("alpha"), federation.keys("alpha"), launcher=launcher)
        federation.gateways["alpha"] = node.gateway
        for site in ("beta", "gamma"):
            assert federation.admit(site).accepted
        node._take(admit(federation))
        assert outbox.wait_for("admission")[0].payload["accepted"]
        set_up(federation, node, outbox)
        node._take(sign(federation.coordinator, federation.manifest(1)))
        with outbox.arrived:
            ended = lambda: outbox.of("contribution") or outbox.of("failed")  # noqa: E731
            assert outbox.arrived.wait_for(ended, 120), outbox.posted
        node._take(sign(federation.coordinator, End(run=federation.run, state="SUCCEEDED")))
        no_run(node)
        log = (sites / "alpha" / "worker.log").read_text()
        said = dict(json.loads(line) for line in log.splitlines() if line.startswith("["))
        lives = victim.process.poll() is None
        return Site(isolation.level, said, outbox, federation, victim.heard, lives)


@pytest.fixture(scope="module", params=ALL, ids=lambda isolation: isolation.level)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return hostile_run(tmp_path_factory.mktemp("site"), request.param, TRIED)


def _readable(path: Path) -> bool:
    """Whether this process may read it: not every host's first process shows its environment to root."""
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


@pytest.mark.promise("locked-in")
@pytest.mark.parametrize("attempt", TRIED)
def test_an_attempt_gets_through_without_a_sandbox_alone(site: Site, attempt: str) -> None:
    if site.level != "none":
        assert site.said[attempt] != "nothing"
        assert site.said[attempt] is not True
    elif attempt != "/proc/1/environ" or _readable(Path("/proc/1/environ")):
        assert site.said[attempt] is True, "the control is no control"


@pytest.mark.promise("locked-in")
def test_nothing_arrived_and_nobody_was_hurt(site: Site) -> None:
    real = site.level != "none"
    assert (site.heard == b"", site.victim_lives) == (real, real)


def test_the_site_s_log_says_what_was_tried(site: Site) -> None:
    entries = site.log("sandbox")
    assert {entry["reason"] for entry in entries} == (set() if site.level == "none" else LOGGED)
    for entry in entries:
        assert (entry["actor"], entry["result"], entry["run"]) == ("worker", "refused", site.federation.run)
    site.federation.gateways["alpha"].audit.verify()


def test_what_was_contributed_says_how_it_was_locked_in(site: Site) -> None:
    (contribution,) = site.posted.of("contribution")
    assert contribution.payload["isolation"] == site.level
    (released,) = site.log("released")
    assert released["isolation"] == site.level


@pytest.mark.parametrize("isolation", REAL, ids=lambda isolation: isolation.level)
def test_what_only_an_attacker_does_ends_the_run_here(tmp_path: Path, isolation: Isolation) -> None:
    """The coordinator learns that it failed; the log has the reason."""
    tried = {"tracing": ATTACKS["tracing another process"]}
    site = hostile_run(tmp_path, isolation, tried)
    assert site.said == {}
    assert site.posted.of("contribution") == []
    assert site.posted.of("failed")[0].payload["code"] == "site.failed"
    assert [entry["reason"] for entry in site.log("sandbox")] == ["the worker was ended: it called ptrace"]
    assert site.log("released") == []
