"""``verified_totals``: what plasmid-sa/2 adds to plasmid-sa/1, at a site and at the coordinator.

Rules
-----
1. CPU seconds of the process, medians; both sides take turns in this process, after one warm-up.
2. sa/1 is the same code without tags: encoding and masks at a site, the sum and its pads at the coordinator.
3. A site's check of a total is the tag of its words alone; ``advance`` was re-run before, too. Its limit
   stands in the column "peer".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from bench.bench_secure_aggregation import cpu_seconds
from bench.harness import Result
from bench.ours import secure_aggregation as ours
from plasmid.privacy import tags
from secure_sum import H

_MILLION = 1_000_000
_LIMIT_MS = 5.0
_SITES = 32


def main() -> list[Result]:
    """Measure clients, the server, and a site's check."""
    clients = [
        _client(length, k, goal)
        for length in (_MILLION, 10 * _MILLION)
        for k, goal in ((7, 1.25), (31, 1.10))
    ]
    return [*clients, _server(_MILLION), _server(10 * _MILLION), _check()]


def _client(length: int, k: int, goal: float) -> Result:
    repeats = 15 if length == _MILLION else 5
    values = 0.05 * np.random.default_rng(0).standard_normal(length, np.float32)
    client = ours.Client(k, length, vectors=2 * (repeats + 1))
    with_tags, without = cpu_seconds(
        [lambda: client.protect(values), _without_tags(lambda: client.protect(values))], repeats
    )
    what = f"client, d = {length:.0e}, k = {k}, beside sa/1"
    return Result.share(what, ours=with_tags, peer=without, unit="s", goal=goal)


def _without_tags(work: Callable[[], Any]) -> Callable[[], Any]:
    def do() -> None:
        with (
            mock.patch.object(tags, "tag", return_value=0),
            mock.patch.object(tags, "masked", return_value=0),
        ):
            work()

    return do


def _server(length: int) -> Result:
    server = ours.Server(_SITES, length)
    with_tags, without = cpu_seconds([lambda: (server.open(), server.open_tag()), server.open], repeats=5)
    what = f"server, n = {_SITES}, d = {length:.0e}, beside sa/1"
    return Result.share(what, ours=with_tags, peer=without, unit="s", goal=1.10)


def _check() -> Result:
    words = np.random.default_rng(0).integers(0, 2**32, _MILLION, np.uint64).astype("<u4")
    sites = [f"site-{index:02}" for index in range(_SITES)]
    (spent,) = cpu_seconds([lambda: tags.tag(bytes(32), H, words, sites)], repeats=25)
    what = "a site's check of a total, d = 1e+06, 32 sites"
    return Result.share(what, ours=spent * 1e3, peer=_LIMIT_MS, unit="ms", goal=1.0)
