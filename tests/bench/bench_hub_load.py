"""``hub_load``: fifty stock clients at once download a 20-MB adapter; the hub's memory is watched.

Rules
-----
1. Each client is a process of its own with a cache of its own: ``snapshot_download`` of the installed
   huggingface_hub, then every file's SHA-256. They start together, behind a barrier.
2. The peer is what can be had for nothing: Python's own ``http.server``, same files, as many processes,
   plain GETs; the hub is asked by those, too. Stock clients are timed beside, without a goal: most of their
   time is their own.
3. The hub is a process of its own; its resident memory is read every 50 ms. Flat means: one client's download
   and fifty at once end within :data:`GROWTH_MB` of each other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psutil

from bench.harness import Result
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import Add
from support.hub.hub_server import client_environment, served, served_apart

CLIENTS = 50
ADAPTER_BYTES = 20_000_000
UPLOAD_BYTES = 200_000_000
GROWTH_MB = 48
GOAL_SHARE = 2.0
NAME = "ada/adapter"
_TENSORS = "adapter_model.safetensors"


def main() -> list[Result]:
    """Measure downloads by fifty clients, and one upload of 200 MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token, digests = _publish(folder)
        with served_apart(folder / "hub") as (url, pid), _watched(pid) as memory:
            one_s, _ = _download(url, folder / "one", digests, 1)
            after_one = memory.peak()
            stock_s, right = _download(url, folder / "fifty", digests, CLIENTS)
            after_fifty = memory.peak()
            print(f"one client: {one_s:.2f} s", file=sys.stderr)
            print(f"{right} of {CLIENTS} clients have every digest right", file=sys.stderr)
            # The same lean client as the peer's: what stock clients do on their own is not the hub's doing.
            homes = [dict(os.environ)] * CLIENTS
            ours_s, said = _together(_PLAIN, [f"{url}/{NAME}/resolve/main", name, *digests], homes)
            assert all(one == digests for one in said)
            upload_s = _upload(url, folder, token)
            after_upload = memory.peak()
        with _plain(folder / "plain") as url:
            peer_s, said = _together(_PLAIN, [url, name, *digests], homes)
            assert all(one == digests for one in said)
        total = CLIENTS * ADAPTER_BYTES / 1e6
        speed = f"{total / ours_s:,.0f} MB/s against {total / peer_s:,.0f} MB/s of a plain file server"
        told = f"one {after_one:.0f}, fifty {after_fifty:.0f}, upload {after_upload:.0f} MB"
        print(f"{CLIENTS} stock clients: {stock_s:.1f} s", file=sys.stderr)
        print(f"the hub's memory at most: {told}", file=sys.stderr)
        print(f"upload of {UPLOAD_BYTES / 1e6:.0f} MB inside a commit: {upload_s:.1f} s", file=sys.stderr)
        return [
            Result.share(
                f"{CLIENTS} lean clients, 20 MB each: {speed}",
                ours=ours_s,
                peer=peer_s,
                unit="s",
                goal=GOAL_SHARE,
            ),
            Result.times_better(
                f"clients with every digest right, of {CLIENTS}", ours=CLIENTS, peer=right, unit="", goal=1
            ),
            _flat(f"hub's memory, {CLIENTS} clients beside one", after_fifty, after_one),
            _flat("hub's memory, an upload of 200 MB beside downloads", after_upload, after_fifty),
        ]


def _flat(what: str, ours: float, peer: float) -> Result:
    return Result.share(what, ours=ours, peer=peer, unit="MB", goal=(peer + GROWTH_MB) / peer)


def _publish(folder: Path) -> tuple[str, dict[str, str]]:
    """Make a hub with the adapter; return a token to write with, and each file's SHA-256."""
    header = json.dumps(
        {"w": {"dtype": "U8", "shape": [ADAPTER_BYTES], "data_offsets": [0, ADAPTER_BYTES]}}
    ).encode()
    files = {
        "README.md": b"---\nlicense: mit\n---\n# Adapter\n",
        "adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "ada/base"}',
        _TENSORS: len(header).to_bytes(8, "little") + header + Random(0).randbytes(ADAPTER_BYTES),
    }
    (folder / "plain").mkdir()
    for name, data in files.items():
        (folder / "plain" / name).write_bytes(data)
    with served(folder / "hub") as live:
        live.user("ada")
        ada = live.hub.accounts.who(live.tokens["ada"])
        assert ada is not None
        repo = live.hub.registry.create(RepoId.parse(NAME), by=ada)
        blobs = {name: live.hub.blobs.put(data) for name, data in files.items()}
        live.hub.registry.keep(*blobs.values())
        added = [Add(name, blob.sha256, name == _TENSORS) for name, blob in blobs.items()]
        live.hub.registry.commit(repo, "main", added, title="adapter", by=ada)
        return live.tokens["ada"], {name: blob.sha256 for name, blob in blobs.items()}


_STOCK = """
import huggingface_hub as hub
ready()
folder = pathlib.Path(hub.snapshot_download(sys.argv[1]))
"""
_PLAIN = """
import tempfile, urllib.request
web = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ready()
folder = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[2]))
for name in sys.argv[3:]:
    with web.open(sys.argv[1] + "/" + name, timeout=600) as answer, (folder / name).open("wb") as file:
        shutil.copyfileobj(answer, file)
"""
_CLIENT = """
import hashlib, json, pathlib, shutil, sys
def ready():
    print("ready", flush=True)
    sys.stdin.readline()
{}
print(json.dumps({{p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}}))
"""


def _together(code: str, arguments: list[str], environments: list[dict[str, str]]) -> tuple[float, list[Any]]:
    """Run *code* once in each environment, all from one moment on; return the time to the last end, and what
    each said."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _CLIENT.format(code), *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    for client in running:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
    begun = time.perf_counter()
    for client in running:
        assert client.stdin is not None
        client.stdin.write("\n")
        client.stdin.flush()
    said = [client.communicate()[0] for client in running]
    return time.perf_counter() - begun, [json.loads(text or "null") for text in said]


def _download(url: str, folder: Path, digests: dict[str, str], clients: int) -> tuple[float, int]:
    """Return how long *clients* took, and how many of them had every digest right."""
    homes = [client_environment(url, folder / str(number), OMP_NUM_THREADS="1") for number in range(clients)]
    took, said = _together(_STOCK, [NAME], homes)
    return took, sum(one == digests for one in said)


def _upload(url: str, folder: Path, token: str) -> float:
    source = folder / "large"
    source.mkdir()
    header = json.dumps(
        {"w": {"dtype": "U8", "shape": [UPLOAD_BYTES], "data_offsets": [0, UPLOAD_BYTES]}}
    ).encode()
    with (source / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for part in range(UPLOAD_BYTES // 10**6):
            file.write(Random(part).randbytes(10**6))
    command = [str(Path(sys.executable).parent / "hf"), "upload", "ada/large", str(source), "."]
    begun = time.perf_counter()
    environment = client_environment(url, folder / "uploader", token=token)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


class _Memory:
    """Reads the resident memory of a process; :meth:`peak` is the most since it was last asked, in MB."""

    def __init__(self, pid: int) -> None:
        self._process, self._most, self.ended = psutil.Process(pid), 0, threading.Event()

    def watch(self) -> None:
        while not self.ended.wait(0.05):
            self._most = max(self._most, self._process.memory_info().rss)

    def peak(self) -> float:
        most, self._most = self._most, 0
        return most / 1e6


@contextmanager
def _watched(pid: int) -> Iterator[_Memory]:
    memory = _Memory(pid)
    thread = threading.Thread(target=memory.watch)
    thread.start()
    try:
        yield memory
    finally:
        memory.ended.set()
        thread.join()


@contextmanager
def _plain(folder: Path) -> Iterator[str]:
    command = [
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "0",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(folder),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split(" port ")[1].split()[0]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
