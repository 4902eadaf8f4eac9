"""Attacks by a hostile worker: what a computation tries from inside the sandbox of this site.

Each is one small program, run twice: bare, where it must succeed (the control), then in the isolation that
this site's workers get, where it must not. All of it stays on this machine: sockets of this process on
loopback, files of the scratch folder, and one byte read of the site's own settings.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from plasmid.isolation.no_isolation import Bare
from plasmid.isolation.port import Isolation, Spec
from plasmid.isolation.supervisor import Guard
from plasmid.owner.red_team.attack import Attack, DidNotHoldError, works
from plasmid.owner.red_team.scratch import Scratch

_WAIT_S = 20.0
_SAYS = "import os\ntry:\n    {}\n    os.write(0, b'done')\nexcept BaseException:\n    os.write(0, b'not.')\n"


def _tried(scratch: Scratch, isolation: Isolation, attempt: str) -> bool:
    """Return whether a child in *isolation* carried *attempt* out."""
    code = _SAYS.format(attempt.replace("\n", "\n    "))
    folder = scratch.folder / "scratch" / secrets.token_hex(4)
    folder.mkdir(parents=True)
    spec = Spec((sys.executable, "-P", "-c", code), (), {"PATH": os.environ.get("PATH", "")}, folder)
    ours, theirs = socket.socketpair()
    guard = Guard(isolation, spec, channel=theirs.detach(), log=scratch.folder / "worker.log", notice=_quiet)
    with ours:
        ours.settimeout(_WAIT_S)
        guard.launch()
        try:
            return ours.recv(4) == b"done"
        except (TimeoutError, ConnectionError):
            return False
        finally:
            guard.end()
            guard.join()


def _quiet(_: str) -> None:
    """What is refused shows in the outcome."""


def _escape(scratch: Scratch, *, attempt: Callable[[Scratch], str]) -> None:
    with _listening() as ports:
        code = attempt(scratch).format(tcp=ports[0], udp=ports[1])
        works(_tried(scratch, Bare(), code), "it does not work without a sandbox either")
        if _tried(scratch, scratch.isolation, code):
            raise DidNotHoldError(f"it works in {scratch.isolation.level}")


@contextmanager
def _listening() -> Iterator[tuple[int, int]]:
    """Have a TCP port that accepts and a UDP port that answers, on loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(_WAIT_S)
        ended = threading.Event()

        def answer() -> None:
            while not ended.is_set():
                try:
                    said, whom = udp.recvfrom(16)
                    udp.sendto(said, whom)
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        try:
            yield tcp.getsockname()[1], udp.getsockname()[1]
        finally:
            ended.set()


def _tcp(_: Scratch) -> str:
    return "import socket; socket.create_connection(('127.0.0.1', {tcp}), 5).close()"


def _udp(_: Scratch) -> str:
    return (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)\n"
        "s.sendto(b'x', ('127.0.0.1', {udp})); s.recv(1)"
    )


def _settings(scratch: Scratch) -> str:
    return f"open({str(scratch.real.folder / 'site.yaml')!r}, 'rb').read(1)"


def _write(scratch: Scratch) -> str:
    return f"open({str(scratch.home().folder / 'written')!r}, 'w').write('x')"


def _rows(scratch: Scratch) -> str:
    return f"open({str(scratch.home().folder / 'data' / 'table.csv')!r}, 'rb').read(1)"


def _signal(_: Scratch) -> str:
    return f"os.kill({os.getpid()}, 0)"


def _memory(_: Scratch) -> str:
    return f"open('/proc/{os.getpid()}/environ', 'rb').read(1)"


def _interpreter(scratch: Scratch) -> str:
    link = scratch.folder / "link"
    if not link.is_symlink():
        link.symlink_to(scratch.home().folder / "site.yaml")
    return f"open({str(link)!r}, 'rb').read(1)"


ATTACKS: tuple[Attack[Scratch], ...] = tuple(
    Attack(name, 6, what, partial(_escape, attempt=attempt))
    for name, what, attempt in (
        ("sandbox: TCP", "A worker opens a connection.", _tcp),
        ("sandbox: UDP", "A worker sends a datagram.", _udp),
        ("sandbox: settings", "A worker reads the site's own settings.", _settings),
        ("sandbox: rows", "A worker opens the site's data file itself.", _rows),
        ("sandbox: write", "A worker writes into the site's folder.", _write),
        ("sandbox: link", "A worker follows a link into the site's folder.", _interpreter),
        ("sandbox: signal", "A worker signals the gateway.", _signal),
        ("sandbox: memory", "A worker reads the gateway's environment.", _memory),
    )
)
