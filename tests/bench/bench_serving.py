"""``serving``: many adapters on one base, beside one merged adapter, PEFT's ways, and the obvious server.

Rules
-----
1. 8 adapters of rank 8 on all linear layers of a BERT of 8 layers of 512 (random), batch 16, 16 tokens,
   fp32, one thread. From token ids to probabilities; the variants take turns, and each turn's process CPU
   times are compared: the median of their ratios, for the machine's speed is another one in each.
2. PEFT runs as it comes; the merged model, like ours, with the attention that is faster on a CPU.
3. Outputs are compared with each adapter alone in stock PEFT before anything is timed.
4. 200 adapters: what the process grows by, beside what their files' tensors take.
5. Under load: 16 clients, each with one request under way, adapters at random. Each server is a process
   with one thread; they take turns of some seconds, and all latencies of a side are pooled.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch

from bench.harness import Result
from bench.ours.serving import make_adapter, make_base, sequences
from bench.peers.peft_serving import PeftServing
from plasmid.adapters.artifact import read_adapter
from plasmid.bases.store import BaseModel
from plasmid.encoders.mixed import Item, MixedModel

ADAPTERS, ROWS, RESIDUES = 8, 16, 14
_REPEATS = 11
_MANY = 200
_CLIENTS, _TURNS, _TURN_S, _WARM_S = 16, 3, 4.0, 1.0


def main() -> list[Result]:
    """Measure one process, and then two servers."""
    torch.set_num_threads(1)
    before = os.environ.get("PLASMID_HOME")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ["PLASMID_HOME"] = name
        try:
            base = make_base(home / "source")
            folders = {f"a{seed}": make_adapter(home / f"a{seed}", base, seed) for seed in range(ADAPTERS)}
            return [*_batches(base, folders), _memory(base, folders["a0"]), *_under_load(base, folders)]
        finally:
            if before is None:
                del os.environ["PLASMID_HOME"]
            else:
                os.environ["PLASMID_HOME"] = before


def _batches(base: BaseModel, folders: Mapping[str, Path]) -> list[Result]:
    model = MixedModel.load(base)
    held = {name: model.hold(read_adapter(folder)) for name, folder in folders.items()}
    tokens = model.tokens(sequences(ROWS, RESIDUES), 64)
    names = [f"a{row % ADAPTERS}" for row in range(ROWS)]
    items = [Item(one, held[name], True) for one, name in zip(tokens, names, strict=True)]
    peft = PeftServing(base.path, folders)
    merged = PeftServing(base.path, {"a0": folders["a0"]}, attention="eager")
    encoder = merged.merge("a0")

    def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ids = torch.tensor([one.ids for one in tokens])
        return ids, torch.ones_like(ids), ~torch.tensor([one.special for one in tokens]).bool()

    def one_merged() -> Any:
        ids, mask, own = batch()
        with torch.inference_mode():
            hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = own[:, :, None].float()
            return merged._head((hidden * weights).sum(1) / weights.sum(1), "a0")

    ways: dict[str, Callable[[], Any]] = {
        "mixed": lambda: model.run(items),
        "engine": lambda: model.run([Item(one, None, False) for one in tokens]),
        "merged": one_merged,
        "names": lambda: peft.mixed(*batch(), names),
        "switched": lambda: peft.switched(*batch(), names),
    }
    alone = ways["switched"]().numpy()
    apart = float(np.abs(np.stack(model.run(items)) - alone).max())
    median = _in_turns(ways)
    title = f"{ADAPTERS} adapters, batch {ROWS}, length 16"
    return [
        Result.share(
            f"{title}: largest difference to each alone", ours=max(apart, 1e-12), peer=1e-5, unit="", goal=1
        ),
        Result.times_better(
            f"{title}: speed of one merged adapter",
            ours=median["mixed"],
            peer=median["merged"],
            unit="s",
            goal=0.9,
        ),
        Result.times_better(
            f"{title}: speed of one merged adapter in our own engine",
            ours=median["mixed"],
            peer=median["engine"],
            unit="s",
            goal=0.9,
        ),
        Result.times_better(
            f"{title}: PEFT's adapter_names", ours=median["mixed"], peer=median["names"], unit="s", goal=1.3
        ),
        Result.times_better(
            f"{title}: a switch per request", ours=median["mixed"], peer=median["switched"], unit="s", goal=4
        ),
    ]


def _in_turns(ways: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return seconds by way: ours' median, and the others' as that times the median ratio of the turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(_REPEATS + 2):
        for name, way in ways.items():
            gc.collect()
            started = time.process_time()
            way()
            if repeat > 1:
                seconds[name].append(time.process_time() - started)
    ours = seconds["mixed"]
    ratios = {
        name: statistics.median(theirs / own for theirs, own in zip(found, ours, strict=True))
        for name, found in seconds.items()
    }
    return {name: ratio * statistics.median(ours) for name, ratio in ratios.items()}


def _memory(base: BaseModel, folder: Path) -> Result:
    model = MixedModel.load(base)
    adapter = read_adapter(folder)
    files = sum((folder / name).stat().st_size for name in ("adapter_model.safetensors", "head.safetensors"))
    (tokens,) = model.tokens(sequences(1, RESIDUES), 64)
    model.run([Item(tokens, model.hold(adapter), True)] * 64)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    held = [model.hold(adapter) for _ in range(_MANY)]
    model.run([Item(tokens, one, True) for one in held[:64]])
    gc.collect()
    grown = process.memory_info().rss - before
    return Result.share(
        f"{_MANY} adapters: memory, of the size of their files",
        ours=grown,
        peer=_MANY * files,
        unit="B",
        goal=1.05,
    )


def _under_load(base: BaseModel, folders: Mapping[str, Path]) -> list[Result]:
    adapters = [f"{name}={folder}" for name, folder in folders.items()]
    latencies: dict[str, list[float]] = {"ours": [], "peer": []}
    with (
        _server("bench.ours.serving", adapters) as ours,
        _server("bench.peers.peft_serving", [str(base.path), *adapters]) as peer,
    ):
        for _ in range(_TURNS):
            for side, url in (("ours", ours), ("peer", peer)):
                latencies[side] += asyncio.run(_load(url, list(folders)))
    p95 = {side: statistics.quantiles(found, n=20)[-1] for side, found in latencies.items()}
    each = {side: _TURNS * _TURN_S / len(found) for side, found in latencies.items()}
    title = f"{_CLIENTS} clients, {ADAPTERS} adapters, against FastAPI and PEFT"
    return [
        Result.times_better(f"{title}: p95 latency", ours=p95["ours"], peer=p95["peer"], unit="s", goal=1),
        Result.times_better(
            f"{title}: seconds a request", ours=each["ours"], peer=each["peer"], unit="s", goal=1
        ),
    ]


@contextmanager
def _server(module: str, arguments: list[str]) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


async def _load(url: str, names: list[str]) -> list[float]:
    """Return the latencies, in seconds, of the requests that ended within the turn."""
    found: list[float] = []
    started = time.monotonic()
    rows = sequences(64, RESIDUES)

    async def client(seed: int, session: httpx.AsyncClient) -> None:
        source = random.Random(seed)
        while time.monotonic() - started < _WARM_S + _TURN_S:
            began = time.monotonic()
            asked = {"model": source.choice(names), "input": source.choice(rows)}
            answer = await session.post(f"{url}/v1/predict", json=asked)
            assert answer.status_code == 200, answer.text
            if began - started > _WARM_S:
                found.append(time.monotonic() - began)

    async with httpx.AsyncClient(trust_env=False, timeout=60) as session:
        await asyncio.gather(*(client(seed, session) for seed in range(_CLIENTS)))
    return found
