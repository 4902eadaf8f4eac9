"""``verified_totals``: what plasmid-sa/2 adds to plasmid-sa/1, at a site and at the coordinator.

Rules
-----
1. CPU seconds of the process, medians; both sides take turns in this process, after one warm-up. At a site
   those of the kernel are left out: they are for the pages of a new vector, of which both sides get the same
   number, and vary tenfold from one vector to the next.
2. sa/1 is the same code without tags and roots: encoding, masks and a SHA-256 at a site, a SHA-256 of each
   body, the sum and its pads at the coordinator. sa/2 has a root where sa/1 has a SHA-256.
3. A site's check of a total is the tag of its words alone; ``advance`` was re-run before, too. Its limit
   stands in the column "peer".
4. The samples for one site are read from the files of a server; their limit stands in the column "peer".
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.bench_secure_aggregation import cpu_seconds
from bench.harness import Result
from bench.ours import secure_aggregation as ours
from plasmid.core.merkle import levels
from plasmid.link import sample_store as kept
from plasmid.secagg import tags
from plasmid.secagg.samples import SAMPLES, body_root, leaf_hashes
from support.federation.secure_sum import H

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
    servers = [_server(_MILLION), _server(10 * _MILLION)]
    return [*clients, *servers, _samples(_MILLION), _check()]


def _client(length: int, k: int, goal: float) -> Result:
    repeats = 41 if length == _MILLION else 9
    values = 0.05 * np.random.default_rng(0).standard_normal(length, np.float32)
    client = ours.Client(k, length, vectors=2 * (repeats + 1))
    with_tags, without = cpu_seconds(
        [
            lambda: body_root(client.protect(values).data.cast("B")),
            _without_tags(lambda: sha256(client.protect(values).data).digest()),
        ],
        repeats,
        clock=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_utime,
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
    server, body = ours.Server(_SITES, length), np.random.default_rng(0).bytes(4 * length + 88)

    def bodies(digest: Callable[[bytes], Any]) -> list[Any]:
        return [digest(body) for _ in range(_SITES - 1)]

    with_tags, without = cpu_seconds(
        [
            lambda: (bodies(body_root), server.open(), server.open_tag()),
            lambda: (bodies(lambda one: sha256(one).digest()), server.open()),
        ],
        repeats=5,
    )
    what = f"server, n = {_SITES}, d = {length:.0e}, beside sa/1"
    return Result.share(what, ours=with_tags, peer=without, unit="s", goal=1.10)


def _samples(length: int) -> Result:
    source, sites = np.random.default_rng(0), _SITES - 1
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for index in range(sites):
            body = source.bytes(4 * length + 88)
            (folder / f"site-{index:02}.body").write_bytes(body)
            tree = b"".join(chain.from_iterable(levels(leaf_hashes(body))))
            (folder / f"site-{index:02}{kept.TREE}").write_bytes(tree)
        (folder / "opening").write_bytes(b"")

        def serve() -> None:
            for leaf in range(SAMPLES):
                kept.read(folder, str(leaf))

        (spent,) = cpu_seconds([serve], repeats=25)
    what = f"the samples of {sites} bodies for a site, read at the server, d = {length:.0e}"
    return Result.share(what, ours=spent * 1e3, peer=2 * _LIMIT_MS, unit="ms", goal=1.0)


def _check() -> Result:
    words = np.random.default_rng(0).integers(0, 2**32, _MILLION, np.uint64).astype("<u4")
    sites = [f"site-{index:02}" for index in range(_SITES)]
    (spent,) = cpu_seconds([lambda: tags.tag(bytes(32), H, words, sites)], repeats=25)
    what = "a site's check of a total, d = 1e+06, 32 sites"
    return Result.share(what, ours=spent * 1e3, peer=_LIMIT_MS, unit="ms", goal=1.0)
