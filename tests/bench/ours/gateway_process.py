"""The gateway's process: its memory and its time as deployed.

Rules
-----
1. Memory is that of a ``plasmid site start`` which has admitted a run and contributed 1e6 values to each of
   its rounds, as the kernel counts it: resident now, and at most since it started.
2. Opening keys under a passphrase that a person chose takes 64 MiB for a moment, so that guessing is dear.
   One site's keys are sealed so; those of the others under a drawn passphrase, as embedded runs do.
3. Time is CPU of that process, user and system, from a longer run less that of a shorter one: what a round
   costs in all, with its masks, messages, TLS, and the polls and heartbeats in between.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from plasmid.gateway.keys.keystore import DRAWN, KEYS_FILE, EncryptedFile
from plasmid.gateway.keys.passphrase import from_file
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.query import PingDocument
from support.federation.deployed import Deployment

LENGTH = 1_000_000
MIB = 1024**2
_CHOSEN_SITE = "site-a"
_SITES = (_CHOSEN_SITE, "site-b", "site-c")


@dataclass(frozen=True)
class Process:
    """Memory in bytes, of several sites the largest; CPU seconds of a round, of several sites the median."""

    steady: int
    peak: int
    peak_chosen: int
    round_cpu_s: float


def measure(short: int, long: int) -> Process:
    """Return what the processes of three sites took for a run of *short* rounds and one of *long* rounds."""
    documents = [
        PingDocument(length=LENGTH, rounds=rounds).model_dump(mode="json") for rounds in (short, long)
    ]
    sites, spent = dict.fromkeys(_SITES), []
    with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), sites) as federation:
        for site in _SITES:
            if site != _CHOSEN_SITE:
                _draw(federation, site)
        federation.allow([recipe_digest(document, "ping") for document in documents])
        coordinator = federation.client()
        federation.start_sites()
        federation.wait_online()
        pids = {site: federation.processes[site].pid for site in _SITES}
        for document in documents:
            before = {site: _cpu_s(pid) for site, pid in pids.items()}
            coordinator.start(document).wait()
            spent.append({site: _cpu_s(pid) - before[site] for site, pid in pids.items()})
        held = {site: _memory(pid) for site, pid in pids.items()}
        coordinator.close()
        for site in _SITES:
            assert len(federation.log(site, action="released")) == short + long
    drawn = [held[site] for site in _SITES if site != _CHOSEN_SITE]
    return Process(
        steady=max(now for now, _ in held.values()),
        peak=max(most for _, most in drawn),
        peak_chosen=held[_CHOSEN_SITE][1],
        round_cpu_s=statistics.median((spent[1][site] - spent[0][site]) / (long - short) for site in _SITES),
    )


def _draw(federation: Deployment, site: str) -> None:
    """Seal a site's keys anew as under a drawn passphrase, which its passphrase is."""
    passphrase = from_file(federation.home(site) / "passphrase")
    EncryptedFile(federation.home(site) / "site" / KEYS_FILE, passphrase).rekey(passphrase, cost=DRAWN)


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, its ended children's not included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> tuple[int, int]:
    """Return the resident bytes of a process: now, and at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    now, most = (int(values[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most
