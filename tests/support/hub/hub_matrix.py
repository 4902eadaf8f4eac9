"""The table client x verb: make the environments, run every verb in each, print JSON.

    PYTHONPATH=tests python -m support.hub.hub_matrix

Rules
-----
1. One hub for all versions, each with repositories of its own; a second one that takes only small files
   inside a commit; and the first behind a proxy that cuts an answer in the middle.
2. Versions but the installed one get an environment of their own, which sees this one's torch and so on.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plasmid.hub.accounts.limits import Limits
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import Add
from support.hub.hub_server import GENEROUS, LiveHub, served

VERBS = Path(__file__).with_name("hub_verbs.py")
OTHERS = ("huggingface_hub==0.30.2", "huggingface_hub>=1.31,<2")
STRICT = Limits(files=GENEROUS.files, requests=GENEROUS.requests, regular_bytes=1_000_000)
MODELS = 105
CUT_BYTES = 15_000_000
RESUMED = "download goes on where it broke off"


@dataclass
class Cutter:
    """A proxy that cuts whole answers with weights; *ranges* are the parts that were asked for."""

    url: str
    ranges: list[str] = field(default_factory=list)


@contextmanager
def cutting(hub_url: str) -> Iterator[Cutter]:
    """Yield a proxy in front of the hub; every whole GET of weights is cut after 15 MB."""
    port = int(hub_url.rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        cutter = Cutter(f"http://127.0.0.1:{listening.getsockname()[1]}")
        threading.Thread(target=_accept, args=(listening, port, cutter), daemon=True).start()
        yield cutter


def _accept(listening: socket.socket, port: int, cutter: Cutter) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_pass_on, args=(client, port, cutter), daemon=True).start()


def _pass_on(client: socket.socket, port: int, cutter: Cutter) -> None:
    """Answer one request of a connection, and close it."""
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (piece := client.recv(65536)):
                return
            head += piece
        asked = re.search(rb"^range: *(\S+)\r$", head, re.MULTILINE | re.IGNORECASE)
        if asked:
            cutter.ranges.append(asked[1].decode())
        cut = head.startswith(b"GET") and b".safetensors " in head.split(b"\r\n")[0] and not asked
        server.sendall(
            re.sub(rb"(?im)^connection:.*\r\n", b"", head).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        )
        left = CUT_BYTES if cut else 1 << 40
        while left > 0 and (piece := server.recv(min(65536, left))):
            client.sendall(piece)
            left -= len(piece)


@contextmanager
def hubs(folder: Path) -> Iterator[tuple[LiveHub, LiveHub]]:
    """Yield a hub with the accounts and the 105 models that the verbs ask for, and a strict one."""
    with served(folder / "hub") as hub, served(folder / "strict", limits=STRICT) as strict:
        for one in (hub, strict):
            one.user("ada")
            one.user("bob")
        hub.hub.accounts.create_organisation("lab")
        hub.hub.accounts.join("lab", "ada", "admin")
        ada = hub.hub.accounts.who(hub.tokens["ada"])
        assert ada is not None
        blob = hub.hub.blobs.put(b"something")  # what nothing was committed to is in no list
        hub.hub.registry.keep(blob)
        for number in range(MODELS):
            repo = hub.hub.registry.create(RepoId.parse(f"lab/m{number:03d}"), by=ada)
            hub.hub.registry.commit(repo, "main", [Add("a.txt", blob.sha256)], title="one file", by=ada)
        yield hub, strict


def run_verbs(python: str, hub: LiveHub, strict: LiveHub, folder: Path) -> dict[str, Any]:
    """Return the outcome of every verb with the client of the interpreter *python*."""
    with cutting(hub.url) as cutter:
        environment = hub.environment(
            folder / "home",
            HUB_TOKEN=hub.tokens["ada"],
            HUB_READER=hub.tokens["bob"],
            HUB_CUTTING=cutter.url,
            HUB_STRICT=strict.url,
            HUB_STRICT_TOKEN=strict.tokens["ada"],
            TRANSFORMERS_VERBOSITY="error",
            OMP_NUM_THREADS="1",
        )
        environment.pop("PYTHONPATH", None)
        run = subprocess.run(
            [python, str(VERBS), str(folder / "work")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    if not any(asked.startswith("bytes=") and asked != "bytes=0-" for asked in cutter.ranges):
        found["outcomes"][RESUMED] = f"no part of the file was asked for: {cutter.ranges}"
    return found


def environment_of(requirement: str, folder: Path) -> str:
    """Make an environment with that client and the other packages of this one; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(where) / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python


def table(found: list[dict[str, Any]]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = [
        "| verb | " + " | ".join(one["version"] for one in found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    for name in found[-1]["outcomes"]:
        cells = [{"ok": "yes", "absent": "none"}.get(one["outcomes"][name], "NO") for one in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run all, print the table on stderr and JSON on stdout."""
    with tempfile.TemporaryDirectory() as name, hubs(Path(name)) as (hub, strict):
        folder = Path(name)
        pythons = [environment_of(one, folder / f"client{place}") for place, one in enumerate(OTHERS)]
        found = [
            run_verbs(python, hub, strict, folder / f"run{place}")
            for place, python in enumerate([*pythons, sys.executable])
        ]
    print(table(found), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
