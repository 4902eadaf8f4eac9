"""Our side of ``link``: a coordinator and three sites as deployed, TLS, signatures and masks on."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.query import PingDocument
from support.federation.deployed import Deployment

LENGTH = 1_000_000
"""float32 values: 4 MB each way."""


@dataclass(frozen=True)
class OurLink:
    """What was measured, in seconds."""

    steady_round_s: float
    start_to_three_rounds_s: float


def measure(rounds: int) -> OurLink:
    """Return the median of *rounds* rounds after the first, and the time from start to three rounds done."""
    first = PingDocument(length=LENGTH, rounds=3).model_dump(mode="json")
    steady = PingDocument(length=LENGTH, rounds=rounds).model_dump(mode="json")
    sites = dict.fromkeys(["site-a", "site-b", "site-c"])
    with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), sites) as federation:
        federation.allow([recipe_digest(document, "ping") for document in (first, steady)])
        coordinator = federation.client()
        started = time.monotonic()
        federation.start_sites()
        federation.wait_online()
        coordinator.start(first).wait()
        start_to_three = time.monotonic() - started
        run = coordinator.start(steady).wait()
        ends = [datetime.fromisoformat(done["ended"]) for done in run.show()["round_log"]]
        coordinator.close()
    seconds = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(ends)]
    return OurLink(statistics.median(seconds), start_to_three)
