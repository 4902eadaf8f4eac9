"""Runs Python code as a worker would run, at one level of isolation, beside a victim that it may attack.

Each of :data:`ATTACKS` is a source text. It sees what :class:`Victim` names: ``home`` (a site's folder),
``victim`` (a process of the same user with a secret in its environment), ``gateway`` (the test itself),
``tcp``, ``udp``, ``abstract`` and ``unix`` (addresses that the test listens on). It says ``done(True)`` if it
got through.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import plasmid.isolation
from plasmid.isolation.choice import every
from plasmid.isolation.levels import Device, Limits
from plasmid.isolation.no_isolation import Bare
from plasmid.isolation.port import Isolation, Spec
from plasmid.isolation.supervisor import Guard

SECRET = "SECRET-OF-THE-SITE-4711"
LIMITS = Limits(memory_mib=512, cpu_s=120, processes=4, scratch_mib=8)

REAL: list[Isolation] = [one for one in every() if one.level != "none" and one.unavailable() is None]
"""The levels that this host has; ``test_isolation`` asserts that there is one."""
ALL: list[Isolation] = [*REAL, Bare()]


@dataclass
class Outcome:
    """What came of a run: how it ended, what the site's log would say, and what the code said."""

    status: int
    reason: str | None
    notices: list[str]
    log: str

    @property
    def got_through(self) -> bool:
        """Whether the code said so."""
        return "GOT THROUGH" in self.log

    @property
    def said(self) -> Any:
        """The last line of JSON that the code printed."""
        return json.loads(self.log.strip().splitlines()[-1])


def run(
    isolation: Isolation,
    folder: Path,
    code: str,
    *,
    limits: Limits = LIMITS,
    given: Mapping[str, Any] | None = None,
    devices: tuple[Device, ...] = (),
    timeout_s: float = 60.0,
) -> Outcome:
    """Run *code* with the names in *given*, and wait for its end."""
    start = (
        "import json, os, sys\n"
        "def done(through):\n"
        "    if through: print('GOT THROUGH', flush=True)\n"
        "    os._exit(0)\n"
    )
    names = "".join(f"{name} = {value!r}\n" for name, value in (given or {}).items())
    scratch, log, notices = folder / "scratch", folder / "worker.log", []
    scratch.mkdir()
    log.unlink(missing_ok=True)
    command = (sys.executable, "-P", "-c", start + names + code)
    spec = Spec(command, (), {"LANG": "C.UTF-8"}, scratch, limits, devices)
    channel = os.open(os.devnull, os.O_RDONLY)
    guard = Guard(isolation, spec, channel=channel, log=log, notice=notices.append)
    guard.launch()
    guard.join(timeout_s)
    if guard.is_alive():
        guard.end("the test has waited long enough")
        guard.join()
    return Outcome(guard.process.returncode, guard.reason, notices, log.read_text("utf-8", "replace"))


@dataclass
class Victim:
    """A context manager: a site's folder with secrets, a process, and sockets that listen."""

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Victim:
        home = self.folder / "home"
        home.mkdir()
        (home / "keys.json").write_text(SECRET)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(600)"],
            env={"SECRET": SECRET},
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setblocking(False)
        self.abstract, self.unix = (socket.socket(socket.AF_UNIX) for _ in range(2))
        abstract, unix = f"\0plasmid-test-{os.getpid()}", str(home / "socket")
        for listener, address in ((self.abstract, abstract), (self.unix, unix)):
            listener.bind(address)
            listener.listen()
        maps = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
        self.names = {
            "gateway": os.getpid(),
            "heap": next(int(line.split("-")[0], 16) for line in maps if "[heap]" in line),
            "home": str(home),
            "source": plasmid.isolation.__file__,
            "secret": SECRET,
            "victim": self.process.pid,
            "tcp": self.tcp.getsockname(),
            "udp": self.udp.getsockname(),
            "abstract": abstract,
            "unix": unix,
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self.tcp, self.udp, self.abstract, self.unix):
            one.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def heard(self) -> bytes:
        """The next datagram that has come, or nothing."""
        try:
            return self.udp.recv(4096)
        except BlockingIOError:
            return b""


_LIBC = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
"""

ATTACKS = {
    "tcp": """
import socket
socket.create_connection(tuple(tcp), 5).sendall(secret.encode())
done(True)
""",
    "tcp6": """
import socket
s = socket.socket(socket.AF_INET6)
s.bind(("::", 0))
done(True)
""",
    "udp": """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(secret.encode(), tuple(udp))
done(True)
""",
    "dns": """
import socket, struct
name = bytes([len(secret)]) + secret.encode() + b"\\0"
question = struct.pack(">6H", 1, 256, 1, 0, 0, 0) + name + bytes([0, 1, 0, 1])
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(question, tuple(udp))
done(True)
""",
    "netlink": """
import socket
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
done(True)
""",
    "abstract socket": """
import socket
socket.socket(socket.AF_UNIX).connect(abstract)
done(True)
""",
    "socket with a path": """
import socket
socket.socket(socket.AF_UNIX).connect(unix)
done(True)
""",
    "the site's keys": """
done(secret in open(home + "/keys.json").read())
""",
    "names in the site's folder": """
done("keys.json" in os.listdir(home))
""",
    "a file into the site's folder": """
open(home + "/policy.yaml", "w").write("allow: everything")
done(True)
""",
    "truncating the site's keys": """
os.truncate(home + "/keys.json", 8)
done(True)
""",
    "removing the site's keys": """
os.unlink(home + "/keys.json")
done(True)
""",
    "mode of the site's keys": """
os.chmod(home + "/keys.json", 0o644)
done(True)
""",
    "the host's accounts": """
done("root" in open("/etc/passwd").read())
""",
    "a link out of the private folder": """
os.symlink(home + "/keys.json", "innocent.txt")
done(secret in open("innocent.txt").read())
""",
    "a way up out of the private folder": """
done(secret in open("../home/keys.json").read())
""",
    "a hard link out of the private folder": """
os.link(home + "/keys.json", "innocent.txt")
done(secret in open("innocent.txt").read())
""",
    "environments of other processes": """
for process in os.listdir("/proc"):
    try:
        if secret in open(f"/proc/{process}/environ").read():
            done(True)
    except OSError:
        pass
done(secret in open(f"/proc/{victim}/environ").read())
""",
    "memory of another process, as a file": """
open(f"/proc/{victim}/mem", "rb")
done(True)
""",
    "memory of another process, by a call": _LIBC
    + """
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(16)
local, remote = Vector(ctypes.addressof(buffer), 16), Vector(heap, 16)
done(libc.process_vm_readv(victim, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) == 16)
""",
    "tracing another process": _LIBC
    + """
done(libc.ptrace(ctypes.c_long(16), ctypes.c_long(victim), None, None) == 0)
""",
    "a signal to another process": """
import signal
os.kill(victim, signal.SIGTERM)
done(True)
""",
    "a signal to the gateway": """
os.kill(gateway, 0)
done(True)
""",
    "a signal to everybody": """
os.kill(-1, 0)
done(True)
""",
    "a signal by a process descriptor": """
import signal
signal.pidfd_send_signal(os.pidfd_open(victim), signal.SIGTERM)
done(True)
""",
    "a signal by a file": """
import fcntl
reading, writing = os.pipe()
fcntl.fcntl(reading, fcntl.F_SETOWN, victim)
done(True)
""",
    "limits of another process": """
import resource
resource.prlimit(victim, resource.RLIMIT_NOFILE, (3, 3))
done(True)
""",
    "a namespace of its own": _LIBC
    + """
done(libc.unshare(0x10000000) == 0)
""",
    "the interpreter's files": """
open(source, "r+").close()
done(True)
""",
    "times of the interpreter's files": """
os.utime(source)
done(True)
""",
    "memory that no process has": """
os.memfd_create("hidden")
done(True)
""",
    "more processes than it may": """
import time
for _ in range(20):
    if os.fork() == 0:
        time.sleep(2)
        os._exit(0)
done(True)
""",
}
"""What a hostile computation may try, by name."""
