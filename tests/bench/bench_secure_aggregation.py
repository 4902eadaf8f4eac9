"""``secure_aggregation``: masking, opening and memory beside Flower's SecAgg+, and masking beside CKKS.

Rules
-----
1. CPU seconds of the process, medians; both sides take turns in this process, after one warm-up.
2. A client turns float32 values into what leaves, with its self-mask and k pair masks. Keys and shares are
   there; Flower agrees on its pair keys anew in each round, and that is counted.
3. The server has all vectors in memory; one site of 32 dropped out after the keys were shared. Our sum is
   checked to be exact. For 1e7 values Flower is given one vector again and again, which is the same work.
4. Memory is what numpy allocates at most while a client works, its result included and its input not.
5. The key stream is as many bytes of AES as the masks need, made in the same way and added to nothing.
6. A key epoch is the set-up of 64 slots at the site that sends the most, JSON and signatures included,
   beside the limit that we set.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness import Result
from bench.ours import secure_aggregation as ours
from bench.peers.flower_secagg import FlowerRound, upload_bytes
from bench.peers.nvflare_ckks import Ckks
from plasmid.secagg.roster import threshold

_MILLION = 1_000_000
_REPEATS = {_MILLION: 15, 10 * _MILLION: 5}
_SITES = 32
_EPOCH_SITES, _EPOCH_SLOTS = 50, 64
_LIMIT_CPU_S, _LIMIT_UP_MB, _LIMIT_DOWN_MB = 1.0, 1.0, 2.0


def main() -> list[Result]:
    """Measure clients, server, memory, CKKS and a key epoch."""
    results = []
    for length, k, of_stream in (
        (_MILLION, 7, 2.2),
        (_MILLION, 31, 1.6),
        (10 * _MILLION, 7, 2.2),
        (10 * _MILLION, 31, 1.6),
    ):
        results += _client(length, k, of_stream)
    for length, goal in ((_MILLION, 80.0), (10 * _MILLION, 15.0)):
        results.append(_server(length, goal))
    return [*results, _memory(), _ckks(), *_epoch()]


def cpu_seconds(
    works: Sequence[Callable[[], Any]], repeats: int, *, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """Return the median CPU seconds of each of *works*, which take turns."""
    seen: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 1):
        for times, work in zip(seen, works, strict=True):
            before = clock()
            work()
            times.append(clock() - before)
    return [statistics.median(times[1:]) for times in seen]


def _values(length: int) -> NDArray[np.float32]:
    return 0.05 * np.random.default_rng(0).standard_normal(length, np.float32)


def _short(length: int) -> str:
    return f"{length:.0e}".replace("+0", "")


def _client(length: int, k: int, of_stream: float) -> list[Result]:
    values, title = _values(length), f"d = {_short(length)}, k = {k}"
    repeats = _REPEATS[length]
    client = ours.Client(k, length, vectors=repeats + 1)
    flower = FlowerRound(k + 1, threshold(k + 1, ours.colluders(k + 1)))
    mine, theirs, stream = cpu_seconds(
        [
            lambda: client.protect(values),
            lambda: flower.protect(0, values),
            lambda: ours.key_streams(length, k + 1),
        ],
        repeats,
    )
    return [
        Result.times_better(f"client, {title}", ours=mine, peer=theirs, unit="s", goal=6.0),
        Result.share(f"client, {title}, of its key stream", ours=mine, peer=stream, unit="s", goal=of_stream),
    ]


def _server(length: int, goal: float) -> Result:
    server = ours.Server(_SITES, length)
    server.check(server.open())
    flower, dropped = FlowerRound(_SITES, threshold(_SITES, ours.colluders(_SITES))), 1
    shares = flower.shares(dropped)
    values = _values(length)
    alive = [site for site in range(_SITES) if site != dropped]
    if length > _MILLION:
        vectors = [flower.protect(0, values)] * len(alive)
    else:
        vectors = [flower.protect(site, values) for site in alive]
        if not np.allclose(flower.open(vectors, shares, dropped), values, atol=1e-5):
            raise RuntimeError("the peer's sum is wrong")
    mine, theirs = cpu_seconds(
        [server.open, lambda: flower.open(vectors, shares, dropped)], repeats=5 if length == _MILLION else 3
    )
    title = f"server, n = {_SITES}, one drop-out, d = {_short(length)}"
    return Result.times_better(title, ours=mine, peer=theirs, unit="s", goal=goal)


def _memory() -> Result:
    values = _values(10 * _MILLION)
    client, flower = ours.Client(7, values.size, vectors=1), FlowerRound(8, 6)
    mine, theirs = (
        _peak_bytes(work) for work in (lambda: client.protect(values), lambda: flower.protect(0, values))
    )
    return Result.share(
        "client, memory above its input, d = 1e7", ours=mine, peer=theirs, unit="MB", goal=0.25
    )


def _peak_bytes(work: Callable[[], Any]) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def _ckks() -> Result:
    values = _values(_MILLION)
    client, ckks = ours.Client(7, values.size, vectors=6), Ckks()
    wide = values.astype(np.float64)
    mine, theirs = cpu_seconds([lambda: client.protect(values), lambda: ckks.encrypt(wide)], repeats=5)
    return Result.times_better(
        "client, d = 1e6, k = 7, beside CKKS", ours=mine, peer=theirs, unit="s", goal=40.0
    )


def _epoch() -> list[Result]:
    client, flower = ours.Client(7, _MILLION, vectors=1), FlowerRound(8, 6)
    upload = Result.share(
        "upload per value",
        ours=client.upload_bytes / _MILLION,
        peer=upload_bytes(flower.protect(0, _values(_MILLION))) / _MILLION,
        unit="B",
        goal=0.51,
    )
    spent, up, down = ours.key_epoch(_EPOCH_SITES, _EPOCH_SLOTS)
    title = f"key epoch, n = {_EPOCH_SITES}, {_EPOCH_SLOTS} slots"
    return [
        upload,
        Result.share(f"{title}: CPU of a site", ours=spent, peer=_LIMIT_CPU_S, unit="s", goal=1.0),
        Result.share(f"{title}: upload of a site", ours=up / 1e6, peer=_LIMIT_UP_MB, unit="MB", goal=1.0),
        Result.share(
            f"{title}: download of a site", ours=down / 1e6, peer=_LIMIT_DOWN_MB, unit="MB", goal=1.0
        ),
    ]
